"""Another program that uses a cluster: `python -m tests.ray.elsewhere ADDRESS TASK ARGUMENT`.

It writes lines of JSON to standard output, and ends when it has done its task or is killed.
"""

import json
import os
import pickle
import sys
from collections.abc import Callable
from typing import Any

from jido_cluster import Cluster, JidoError, RunRef
from tests.contract.tapes import Tape


def tell(value: Any) -> None:
    """One line for the test."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def take(address: str, agent_id: str) -> None:
    """Take an endless stream for as long as this process lives."""
    with Cluster.connect(address, start=False) as cluster:
        stream = cluster.ref(Tape, agent_id).options(timeout=300.0).stream(Tape.count, 10**9)
        tell(next(stream))
        sys.stdin.read()


def ask(address: str, pickled: str) -> None:
    """Ask about a run by its pickled ref: without connecting first."""
    ref: RunRef[Any] = pickle.loads(bytes.fromhex(pickled))
    tell([ref.run_id, ref.status(), ref.wait(0.2)])
    tell(_outcome(lambda: ref.result(0.2)))
    tell([ref.cancel(), ref.wait(30.0), ref.cancel()])
    tell(_outcome(ref.result))


def read(address: str, pickled: str) -> None:
    """The result of a run, by a connection of its own."""
    with Cluster.connect(address, start=False):
        ref: RunRef[Any] = pickle.loads(bytes.fromhex(pickled))
        tell([ref.wait(30.0), ref.result(), ref.result()])


def _outcome(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except JidoError as error:
        return error.kind


if __name__ == "__main__":
    os.environ["RAY_AUTH_MODE"] = "disabled"
    {"take": take, "ask": ask, "read": read}[sys.argv[2]](sys.argv[1], sys.argv[3])
