"""Settings that hold for every test: what Ray reads at import, and how hard Hypothesis tries."""

import os

# Ray reads both when it is imported: a bare `ray.init()` would otherwise switch on token
# authentication for every cluster on the machine, and report usage over the network.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from hypothesis import settings

# No deadline per example: the machine that runs the tests is shared, and a slow example is no bug.
# "ci" is derandomized, so that a run says something about the change and not about its luck.
settings.register_profile("dev", deadline=None, max_examples=50)
settings.register_profile("ci", deadline=None, max_examples=100, derandomize=True)
settings.register_profile("long", deadline=None, max_examples=2_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from jido_cluster import Cluster
    from tests.contract.support import Mortal
    from tests.ray_support import RayNodes


@pytest.fixture(scope="session")
def ray_nodes() -> "Iterator[RayNodes]":
    """Three Ray nodes that last for the session; those that tests kill are started again."""
    from tests.ray_support import ray_nodes as start

    with start(3) as nodes:
        yield nodes


@pytest.fixture(scope="session")
def ray_cluster(
    ray_nodes: "RayNodes", tmp_path_factory: pytest.TempPathFactory
) -> "Iterator[Cluster]":
    """The runtime on the session's Ray nodes, connected; a killed node comes back with its data."""
    from jido_cluster import Cluster
    from tests.contract.support import CONFIG

    config = CONFIG.model_copy(update={"data_dir": tmp_path_factory.mktemp("nodes")})
    with Cluster.connect(ray_nodes.address, config=config) as cluster:
        yield cluster


@pytest.fixture
def ray_mortal(ray_nodes: "RayNodes", ray_cluster: "Cluster") -> "Iterator[Mortal]":
    """The session's cluster for a test that kills nodes; complete again afterwards."""
    from tests.contract.support import Mortal
    from tests.ray_support import complete, wait_settled

    complete(ray_nodes, ray_cluster)
    wait_settled(ray_cluster)
    yield Mortal(ray_cluster, ray_nodes.names[1:], ray_nodes.kill)
    complete(ray_nodes, ray_cluster)
