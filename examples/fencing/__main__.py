"""A leader is held up right before it writes, and writes after its successor: it is refused.

``python -m examples.fencing`` needs no Ray: three nodes in one process. The node is killed, but the
thread of its handler lives on, as a process does that was paused for so long that it counts as
dead.
"""

import sys
import tempfile
import threading
from pathlib import Path

from examples.fencing.meter import STORE, Meter
from examples.fencing.store import Store
from jido_cluster import Cluster, FencedError

SECONDS = 30.0  # for anything that is waited for


class SlowStore(Store):
    """A store on which one write is held up on its way."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.hold_next = False
        self.held = threading.Event()
        self.go_on = threading.Event()
        self.ended = threading.Event()
        self.refusal: FencedError | None = None

    def write(self, name: str, value: int, token: str) -> None:
        """As `Store.write`, at once or, if it is to be held up, when `go_on` is set."""
        if not self.hold_next:
            super().write(name, value, token)
            return
        self.hold_next = False
        self.held.set()
        self.go_on.wait(SECONDS)
        try:
            super().write(name, value, token)
        except FencedError as error:
            self.refusal = error
            raise
        finally:
            self.ended.set()


def write_late(store: SlowStore) -> list[str]:
    """Have an older leader write after a newer one; what happened, in lines."""
    with Cluster.local(nodes=3, resources={STORE: store}) as cluster:
        meter = cluster.spawn(Meter, "meter-1")
        said = [f"used 1, total {meter.call(Meter.use, 1)}"]
        home = meter.info().node
        store.hold_next = True
        second = meter.submit(Meter.use, 2)
        store.held.wait(SECONDS)
        cluster.kill(home)
        said.append(f"{home} is about to write a total of 3, and is lost")
        said.append(f"used 2, total {second.result(SECONDS)}, on {meter.info().node}")
        said.append(f"used 4, total {meter.call(Meter.use, 4)}")
        store.go_on.set()
        store.ended.wait(SECONDS)
        told = "is taken" if store.refusal is None else f"is refused: {store.refusal.message}"
        said.append(f"the write of {home} arrives, and {told}")
        said.append(f"the agent has {meter.state().total}, the store shows {store.read(meter.id)}")
    return said


def main() -> int:
    """Run it; 1 if the store shows something else than the agent has."""
    with tempfile.TemporaryDirectory() as folder:
        store = SlowStore(Path(folder) / "store.sqlite")
        sys.stdout.write("\n".join(write_late(store)) + "\n")
        return 0 if store.read("meter-1") == 7 else 1


if __name__ == "__main__":
    sys.exit(main())
