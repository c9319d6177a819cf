"""What the network and the disks of a run's nodes do to them.

All rules stand at the receiver: a packet that is refused on its way out is an error for the
sender's program, while one that the other side does not take in is lost without a word.
"""

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Final

from tests.faults.namespaces import Network, send_signal

_BLOCK: Final = bytes(1 << 20)
_PERIOD: Final = 0.1  # seconds
_PERIODS: Final = 50


class Faults:
    """Cuts and loss between the nodes of a network; at most one of them for each direction."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._rules: dict[tuple[str, str], str] = {}  # by sender and receiver

    def one_way(self, senders: Collection[str], receivers: Collection[str]) -> None:
        """Nothing of what these send reaches those, and nobody is told."""
        self._put(((a, b) for a in senders for b in receivers if a != b), "drop")

    def black_hole(self, *sides: Collection[str]) -> None:
        """The sides do not reach each other, and nobody is told."""
        for a, b in itertools.permutations(sides, 2):
            self.one_way(a, b)

    def refuse(self, *sides: Collection[str]) -> None:
        """The sides do not reach each other, and whoever tries is told at once."""
        pairs = (
            (a, b) for one, other in itertools.permutations(sides, 2) for a in one for b in other
        )
        # The answer itself has to get through the other side's filter.
        answer = "tcp flags & rst == rst accept"
        self._put(pairs, answer, "meta l4proto tcp reject with tcp reset", "drop")

    def lose(self, share: float, names: Sequence[str] | None = None) -> None:
        """Each packet between two of these nodes is lost with this probability, 0 to 1.

        Args:
            share: The probability, counted in thousandths.
            names: None for all nodes.
        """
        if not 0.0 <= share <= 1.0:
            message = f"share={share} must be a probability"
            raise ValueError(message)
        pairs = itertools.permutations(names or self._network.names, 2)
        self._put(pairs, f"numgen random mod 1000 < {round(share * 1000)} drop")

    def heal(self) -> None:
        """All packets reach all nodes again."""
        receivers = {receiver for _, receiver in self._rules}
        self._rules.clear()
        for receiver in sorted(receivers):
            self._apply(receiver)

    def _put(self, pairs: Iterable[tuple[str, str]], *rules: str) -> None:
        receivers = set()
        for sender, receiver in pairs:
            address = self._network.address(sender)
            self._rules[sender, receiver] = "\n".join(f"ip saddr {address} {one}" for one in rules)
            receivers.add(receiver)
        for receiver in sorted(receivers):
            self._apply(receiver)

    def _apply(self, receiver: str) -> None:
        rules = "\n".join(rule for (_, to), rule in self._rules.items() if to == receiver)
        chain = f"chain input {{ type filter hook input priority 0; policy accept;\n{rules}\n}}\n"
        # Declared before it is deleted: deleting what is not there would fail the first time.
        table = f"table inet faults {{\n{chain}}}"
        self._network.filter(receiver, f"table inet faults\ndelete table inet faults\n{table}\n")


class FullDisk:
    """A file that takes all space there is beside it, from `__enter__` to `__exit__`."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "ballast"

    def __enter__(self) -> None:
        descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            size = len(_BLOCK)
            while size:
                try:
                    os.write(descriptor, _BLOCK[:size])
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    size //= 2
        finally:
            os.close(descriptor)

    def __exit__(self, *_: object) -> None:
        self._file.unlink()


class Slowed:
    """A node that stands still most of the time, from `__enter__` to `__exit__`.

    As one with too little of a processor: it is stopped and let go on ten times a second.

    Args:
        network: The node's.
        name: The node.
        share: Of each period in which it may run, above 0 and below 1.
    """

    def __init__(self, network: Network, name: str, share: float) -> None:
        if not 0.0 < share < 1.0:
            message = f"share={share} must be above 0 and below 1"
            raise ValueError(message)
        self._network = network
        self._name = name
        self._share = share
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            pids = self._network.pids(self._name)  # takes a while: not in each period
            for _ in range(_PERIODS):
                send_signal(pids, signal.SIGSTOP)
                self._over.wait(_PERIOD * (1.0 - self._share))
                send_signal(pids, signal.SIGCONT)
                if self._over.wait(_PERIOD * self._share):
                    break


class BusyCores:
    """Work for every core that never ends, from `__enter__` to `__exit__`."""

    def __enter__(self) -> None:
        command = [sys.executable, "-c", "while True: pass"]
        self._busy = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]

    def __exit__(self, *_: object) -> None:
        for process in self._busy:
            process.kill()
            process.wait()


def failing_calls(request: int, response: int, in_flight: int) -> dict[str, str]:
    """Environment of nodes whose Ray actor calls fail by chance, other than by the network.

    Args:
        request: Percent that are lost before they run.
        response: Percent that run, and whose answer is lost.
        in_flight: Percent that are reported as failed while they still run.
    """
    failure = {
        "num_failures": -1,
        "req_failure_prob": request,
        "resp_failure_prob": response,
        "in_flight_failure_prob": in_flight,
    }
    rules = {"CoreWorkerService.grpc_client.PushTask": failure}
    return {"RAY_testing_rpc_failure": json.dumps(rules, separators=(",", ":"))}
