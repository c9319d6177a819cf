"""What a leader writes to another system after it was replaced is refused there."""

from pathlib import Path

import pytest

from examples.fencing.__main__ import SlowStore, main, write_late
from examples.fencing.meter import STORE, Meter
from examples.fencing.store import Store
from jido_cluster import Cluster, FencedError


class Trusting(SlowStore):
    """As if nobody had thought of fences."""

    def write(self, name: str, value: int, token: str) -> None:
        del token
        super().write(name, value, "")


def test_the_write_of_an_older_leader_is_refused(tmp_path: Path) -> None:
    """It comes after its successor's, which stands."""
    store = SlowStore(tmp_path / "store")
    said = write_late(store)
    assert said[-1] == "the agent has 7, the store shows 7"
    assert "is refused: 'meter-1' was written by a later turn" in said[-2]


def test_without_a_fence_it_would_be_taken(tmp_path: Path) -> None:
    """The same course of events, on a store that does not look at tokens."""
    said = write_late(Trusting(tmp_path / "store"))
    assert said[-2].endswith("is taken")
    assert said[-1] == "the agent has 7, the store shows 3"


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """As the README says."""
    assert main() == 0
    assert "is refused" in capsys.readouterr().out


def test_the_store_takes_newer_and_equal_tokens(tmp_path: Path) -> None:
    """Of each name by itself, also when it is opened again."""
    store = Store(tmp_path / "store")
    assert store.read("a") is None
    store.write("a", 1, "5")
    store.write("a", 2, "5")
    store.write("a", 3, "6")
    store.write("b", 1, "1")
    with pytest.raises(FencedError, match="'a' was written by a later turn than 5"):
        Store(tmp_path / "store").write("a", 4, "5")
    assert (store.read("a"), store.read("b")) == (3, 1)


def test_tokens_rise_over_failovers(tmp_path: Path) -> None:
    """As fences and as text; `info` tells the newest."""
    fences = []
    with Cluster.local(nodes=3, resources={STORE: Store(tmp_path / "store")}) as cluster:
        meter = cluster.spawn(Meter, "meter-1")
        for _ in range(2):
            fences += [meter.request(Meter.use, 1).fence for _ in range(12)]
            assert meter.info().fence == fences[-1]
            home = meter.info().node
            cluster.kill(home)
            fences.append(meter.request(Meter.use, 1).fence)
            assert meter.info().node != home
            cluster.restart(home)
    assert fences == sorted(set(fences))
    tokens = [fence.token for fence in fences]
    assert tokens == sorted(set(tokens))
