"""One suite, two drivers: the same tests on a cluster in this process and on a real one.

For the parameter "ray" the tests of the Ray driver provide two fixtures: `ray_cluster`, a connected
`Cluster` of three nodes that lasts for the session, and `ray_mortal`, a `Mortal`. Both run with the
configuration `support.CONFIG`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jido_cluster import Cluster, new_id
from tests.contract.support import CONFIG, Gate, Mortal, gate_in

DRIVERS = ["local", pytest.param("ray", marks=pytest.mark.ray)]


@pytest.fixture(scope="session", params=DRIVERS)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster of three nodes, shared by all tests: each names its agents by `new_id`."""
    if request.param == "ray":
        yield request.getfixturevalue("ray_cluster")
        return
    with Cluster.local(nodes=3, config=CONFIG) as local:
        yield local


@pytest.fixture(params=DRIVERS)
def mortal(request: pytest.FixtureRequest) -> Iterator[Mortal]:
    """A cluster whose nodes may be killed."""
    if request.param == "ray":
        yield request.getfixturevalue("ray_mortal")
        return
    with Cluster.local(nodes=3, config=CONFIG) as local:
        yield Mortal(local, tuple(node.name for node in local.nodes()), local.kill)


@pytest.fixture
def name() -> str:
    """An agent id nobody else has."""
    return new_id("test-")


@pytest.fixture
def gate(tmp_path: Path) -> Callable[[], Gate]:
    """Makes gates."""
    return lambda: gate_in(tmp_path)
