"""Processes that talk over a `Peers` port, and what they heard."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from jido_cluster._local.peers import LocalPeers, Switchboard
from jido_cluster._ray.peers import TcpPeers
from jido_state.messages import Heartbeat
from jido_state.node_messages import Frame
from jido_state.versions import Ballot

DEADLINE_SECONDS = 20.0
TOKEN = "ab" * 32
CLUSTER = "cluster"


def beat(number: int, group: int = 3) -> Frame:
    """A message that is small and can be told from others."""
    return Frame(group, 1, Heartbeat(number, Ballot(0, 1, 2, 3)))


class Ear:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int, list[Any]]] = []
        self.told: list[tuple[str, int, int]] = []
        self._news = asyncio.Event()

    @property
    def messages(self) -> list[Any]:
        return [message for _, _, batch in self.batches for message in batch]

    def received(self, node: int, part: int, messages: list[Any]) -> None:
        self.batches.append((node, part, messages))
        self._news.set()

    def gone(self, node: int, part: int) -> None:
        self.told.append(("gone", node, part))
        self._news.set()

    def back(self, node: int, part: int) -> None:
        self.told.append(("back", node, part))
        self._news.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until this holds, looking whenever something was heard."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not holds():
                self._news.clear()
                await self._news.wait()


class Process:
    """One end of links."""

    def __init__(self, peers: Any, address: str, node: int, part: int) -> None:
        self.peers = peers
        self.address = address
        self.node = node
        self.part = part
        self.ear = Ear()
        peers.start(self.ear)

    def know(self, other: "Process", life: int = 1) -> None:
        self.peers.know(other.node, other.part, other.address, life)

    def send(self, other: "Process", *numbers: int) -> None:
        for number in numbers:
            self.peers.send(other.node, other.part, beat(number))

    async def hears(self, *numbers: int) -> None:
        """Wait until exactly these messages have come, in this order."""
        wanted = [beat(number) for number in numbers]
        await self.ear.until(lambda: len(self.ear.messages) >= len(wanted))
        assert self.ear.messages == wanted


class Net:
    """Makes processes, and closes them in the end."""

    kind = ""

    def __init__(self) -> None:
        self.switchboard = Switchboard()
        self._made: list[Process] = []

    async def process(self, node: int, part: int = 0, *, cluster: str | None = CLUSTER) -> Process:
        peers: Any
        if self.kind == "local":
            peers = LocalPeers(self.switchboard)
            address = peers.address
        else:
            peers = TcpPeers(TOKEN)
            address = await peers.listen("127.0.0.1")
        if cluster is not None:
            peers.be(cluster, node, part)
        process = Process(peers, address, node, part)
        self._made.append(process)
        return process

    async def pair(self) -> tuple[Process, Process]:
        """Two processes of two nodes that know each other."""
        one, two = await self.process(1), await self.process(2)
        one.know(two)
        two.know(one)
        return one, two

    async def close(self) -> None:
        """Close all of them, which ends whatever they had begun."""
        for process in self._made:
            process.peers.close()
        if rest := asyncio.all_tasks() - {asyncio.current_task()}:
            _, left = await asyncio.wait(rest, timeout=DEADLINE_SECONDS)
            assert not left


def run_net(kind: str, story: Callable[[Net], Coroutine[Any, Any, None]]) -> None:
    """Runs a story on processes of this kind; fails on errors that nobody has looked at."""
    unseen: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, each: unseen.append(each))
        net = Net()
        net.kind = kind
        try:
            await story(net)
        finally:
            await net.close()

    factory = uvloop.new_event_loop if kind == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
    if unseen:
        shown = "; ".join(f"{one['message']}: {one.get('exception')!r}" for one in unseen)
        raise AssertionError(f"errors that nobody has looked at: {shown}")
