"""Hosts that only pretend: leaders come and go as a test says, and nothing is computed."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from jido_cluster.errors import JidoError, UnavailableError
from jido_cluster.ports import PeerGoneError, PeerTroubleError
from jido_cluster.runtime.cell import Inlet
from jido_cluster.runtime.client import Client
from jido_cluster.runtime.view import Lead, Member, View
from jido_cluster.runtime.wire import (
    CAST,
    CROWDED,
    DONE,
    DOUBT,
    EVENT,
    FAILED,
    LEADS,
    MAX_FRAME,
    REDIRECT,
    VERSION,
    encode_error,
    pack,
    pack_lead,
    unpack,
    unpack_frame,
)
from tests.exec.loops import VirtualLoop

T = TypeVar("T")
SHARDS = 4
TURN = 0.01  # seconds from when a host takes a call until it has done it
WAY = 0.001  # seconds that a frame, or its answer, is on its way
STUCK = "stuck"  # a key whose calls are taken and never answered


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The result of `main()` on simulated time; fails on errors that nobody has looked at."""
    unseen: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: unseen.append(context))
        result = runner.run(main())
    if unseen:
        shown = "; ".join(f"{one['message']}: {one.get('exception')!r}" for one in unseen)
        raise AssertionError(f"errors that nobody has looked at: {shown}")
    return result


def member(name: str, hosts: int = 1, life: int = 0, *, node: int = 0, **fields: Any) -> Member:
    """A node that is up, with so many hosts."""
    addresses = tuple(f"host/{name}.{life}/{index}" for index in range(hosts))
    known = {"resources": {"CPU": 2.0}, "hosts": addresses, **fields}
    return Member(node, f"{name}.{life}", name, "up", 1, life, f"supervisor/{name}.{life}", **known)


class FakeHost:
    """One node's only host.

    Attributes:
        knows: Whom it believes to lead, when it does not lead itself.
        answers_with: What it answers a call it took with, instead of doing it.
        is_silent: It takes nothing and answers nothing, as behind a broken switch.
        is_cut: It cannot be reached, and the transport says so.
        cut_seconds: How long the transport takes to say that.
        crowded_from: How many unacknowledged results of a key it keeps.
    """

    def __init__(self, world: "FakeCluster", node: int) -> None:
        self.world = world
        self.node = node
        self.address = f"host/{node}"
        self.is_alive = True
        self.is_silent = False
        self.is_cut = False
        self.cut_seconds = 0.0
        self.knows: Lead | None = None
        self.answers_with: JidoError | int | None = None
        self.crowded_from: int | None = None
        self.taken: list[int] = []  # numbers, in the order in which they came, retries included
        self.asked: list[float] = []  # when frames with messages came
        self.inlets: dict[str, Inlet] = {}
        self._refused: dict[tuple[str, str], int] = {}
        self._waiting: list[tuple[Inlet, list[Any]]] = []
        self._loop = asyncio.get_running_loop()

    @property
    def leads(self) -> bool:
        lead = self.world.lead
        return self.is_alive and lead is not None and lead.node == self.node

    async def frame(self, data: bytes) -> bytes:
        link, epoch, sequence, ack, entries = unpack_frame(data)
        inlet = self.inlets.setdefault(link, Inlet(link, self._loop))
        if not await inlet.wait_turn(epoch, sequence, 1.0):
            raise PeerTroubleError("out of order")
        if entries:
            self.asked.append(self._loop.time())
        for entry in entries:
            if entry[0] not in inlet.open:
                if entry[1] != CAST and entry[1] != EVENT:
                    inlet.open.add(entry[0])
                self._take(inlet, entry, ack)
        end: asyncio.Future[None] = self._loop.create_future()
        inlet.end_frame(end)
        await end
        replies = inlet.take_replies(MAX_FRAME)
        unanswered = len(inlet.open) + len(inlet.replies)
        return pack((VERSION, int(inlet.is_holding), unanswered, replies))

    def _take(self, inlet: Inlet, entry: list[Any], ack: int) -> None:
        number, _, key, name = entry[:4]
        known = self.world.lead if self.leads else self.knows
        if name == LEADS:
            inlet.reply((number, DONE, pack_lead(known), None))
            return
        self.taken.append(number)
        place = (inlet.client, key)
        first = self._refused.get(place, number)
        if first == number or first < ack:
            self._refused.pop(place, None)
            first = number
        if not self.leads or first < number:
            self._refused[place] = min(first, number)
            self._answer(inlet, entry, REDIRECT, pack_lead(known))
            return
        if self.crowded_from is not None and self.world.is_crowded(self, key, entry, ack):
            self._refused[place] = number
            self._answer(inlet, entry, CROWDED, b"")
            return
        if number not in self.world.accepted[key]:
            self.world.accepted[key].append(number)
        self._waiting.append((inlet, entry))
        self._loop.call_later(TURN, self._finish_next)

    def _finish_next(self) -> None:
        if not self._waiting or not self.is_alive:
            return
        inlet, entry = self._waiting.pop(0)
        if entry[2] == STUCK:
            return
        if isinstance(self.answers_with, JidoError):
            self._answer(inlet, entry, FAILED, encode_error(self.answers_with))
        elif self.answers_with is not None:
            self._answer(inlet, entry, self.answers_with, pack_lead(self.knows))
        else:
            self._answer(inlet, entry, DONE, self.world.apply(inlet.client, entry))

    def stop(self, *, applies: bool) -> None:
        """Lead no more: what waits is surely not done, or may be."""
        waiting, self._waiting = self._waiting, []
        for index, (inlet, entry) in enumerate(waiting):
            if index == 0:
                if applies:
                    self.world.apply(inlet.client, entry)
                self._answer(inlet, entry, DOUBT, pack_lead(self.knows))
            else:
                place = (inlet.client, entry[2])
                self._refused[place] = min(self._refused.get(place, entry[0]), entry[0])
                self._answer(inlet, entry, REDIRECT, pack_lead(self.knows))

    def _answer(self, inlet: Inlet, entry: list[Any], status: int, body: bytes) -> None:
        if entry[1] != CAST and entry[1] != EVENT:
            inlet.reply((entry[0], status, body, None))


class FakeCluster:
    """Hosts, who leads all shards, what a quorum has, and the transport to them.

    Attributes:
        lead: Who leads; None while nobody does.
        accepted: By key the numbers that leaders took, each where it was taken first.
        applied: By key what was done, in order.
        frames: All that was sent: to whom, and the unpacked frame.
    """

    def __init__(self, nodes: int = 3) -> None:
        self.lead: Lead | None = None
        self.hosts = [FakeHost(self, node) for node in range(nodes)]
        self.accepted: dict[str, list[int]] = defaultdict(list)
        self.applied: dict[str, list[int]] = defaultdict(list)
        self.results: dict[tuple[str, int], bytes] = {}
        self.frames: list[tuple[str, list[Any]]] = []
        self.client: Client
        self.view = View(
            "c",
            0,
            1,
            tuple(
                Member(n, f"uuid-{n}", f"node-{n}", "up", hosts=(host.address,))
                for n, host in enumerate(self.hosts)
            ),
            (tuple(range(nodes)),) * SHARDS,
        )
        self._loop = asyncio.get_running_loop()
        self._round = 0
        self._under_way: list[asyncio.Task[bytes]] = []
        self._told = asyncio.Event()

    def connect(self, *, knows_lead: bool = True) -> Client:
        """A client that knows the members, and who leads if it is to."""
        view = self.view
        if knows_lead and self.lead is not None:
            view = view.with_leads(dict.fromkeys(range(SHARDS), self.lead))
        self.client = Client(self, view, "me")
        return self.client

    def elect(self, node: int, *, applies: bool = False) -> Lead:
        """This node leads from now on; whoever did before has heard of it."""
        before = self.lead
        self._round += 1
        self.lead = lead = Lead((0, 1, self._round, node), node)
        if before is not None and before.node != node:
            host = self.hosts[before.node]
            host.knows = lead
            host.stop(applies=applies)
        return lead

    def depose(self, *, applies: bool = False) -> None:
        """Nobody leads."""
        if self.lead is not None:
            host = self.hosts[self.lead.node]
            self.lead = host.knows = None
            host.stop(applies=applies)

    def kill(self, node: int) -> None:
        """The node's process ends, and everybody who is connected notices."""
        self.hosts[node].is_alive = False
        for inlet in self.hosts[node].inlets.values():
            inlet.release()
        if self.lead is not None and self.lead.node == node:
            self.lead = None

    def tell(self, lead: Lead) -> None:
        """The near supervisor hears who leads."""
        self.view = self.view.with_leads(dict.fromkeys(range(SHARDS), lead)).from_source(
            f"near:{lead.ballot[2]}"
        )
        told, self._told = self._told, asyncio.Event()
        told.set()

    def apply(self, client: str, entry: list[Any]) -> bytes:
        """What a quorum makes of an operation: the same result however often it comes."""
        op = (client, entry[0])
        if op not in self.results:
            self.applied[entry[2]].append(entry[0])
            self.results[op] = pack(len(self.applied[entry[2]]))
        return self.results[op]

    def is_crowded(self, host: FakeHost, key: str, entry: list[Any], ack: int) -> bool:
        """Whether too many results of the key are not acknowledged."""
        ack = max(ack, (entry[6] or {}).get("k", 0))
        kept = [number for number in self.accepted[key] if number >= ack]
        return host.crowded_from is not None and len(kept) >= host.crowded_from

    # -- the transport

    def send(self, host: str, frame: bytes) -> "asyncio.Future[bytes]":
        parts = unpack(frame)
        self.frames.append((host, parts))
        unanswered = [n for n, call in self.client.calls.items() if not call.done()]
        assert all(number >= parts[4] for number in unanswered), "acknowledged, yet unanswered"
        task = self._loop.create_task(self._send(self.hosts[int(host[5:])], frame))
        self._under_way.append(task)  # one that is never answered would be collected as garbage
        return task

    async def _send(self, host: FakeHost, frame: bytes) -> bytes:
        await asyncio.sleep(WAY)
        if host.is_cut:
            await asyncio.sleep(host.cut_seconds)
            raise PeerTroubleError("no way there")
        if host.is_silent:
            await asyncio.Event().wait()
        if not host.is_alive:
            raise PeerGoneError("dead")
        answer = await host.frame(frame)
        await asyncio.sleep(WAY)
        if not host.is_alive:
            raise PeerGoneError("died")
        if host.is_silent:
            await asyncio.Event().wait()
        return answer

    async def ask(self, supervisor: str, operation: str, data: bytes) -> bytes:
        raise UnavailableError(supervisor)

    async def newer_view(self, source: str) -> View:
        while self.view.source == source:
            await self._told.wait()
        return self.view
