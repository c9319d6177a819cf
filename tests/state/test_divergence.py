"""Acting apart and coming back: nothing that was acknowledged disappears silently."""

from dataclasses import replace
from typing import ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from jido_state.dedupe import Hit, lookup
from jido_state.divergence import NO_SIBLINGS
from jido_state.merge import Resolve
from jido_state.record import Record
from tests.state.partition import NODES, Partition, count, fail, line, merge_counts

WHICH = st.integers(0, NODES - 1)
CLOCK = st.integers(0, 50)


class Apart(RuleBasedStateMachine):
    """Whatever happens apart and in whatever order it comes back, at the end all of it is there.

    The state of replicated types has every turn once. Without such a type, every turn is in the
    value that was taken or in one that was logged. Every signal is taken once, every timer that was
    not cleared is set, every op id is known.
    """

    resolve: ClassVar[Resolve | None] = None

    @initialize()
    def begin(self) -> None:
        self.world = Partition(type(self).resolve)

    @rule(wall_ms=CLOCK, clears=st.booleans())
    def turn(self, wall_ms: int, clears: bool) -> None:
        self.world.turn(wall_ms, clears=clears)

    @rule()
    def elect(self) -> None:
        self.world.elect()

    @precondition(lambda self: self.world.register is not None)
    @rule()
    def settle(self) -> None:
        self.world.settle()

    @rule(node=WHICH)
    def orphan(self, node: int) -> None:
        if not self.world.siblings[node].entries:
            self.world.orphan(node)

    @rule(node=WHICH)
    def replicate(self, node: int) -> None:
        self.world.replicate(node)

    @rule(node=WHICH, wall_ms=CLOCK, clears=st.booleans())
    def act(self, node: int, wall_ms: int, clears: bool) -> None:
        self.world.act(node, wall_ms, clears=clears)

    @rule(one=WHICH, two=WHICH)
    def exchange(self, one: int, two: int) -> None:
        self.world.exchange(one, two)

    @rule(node=WHICH)
    def restart(self, node: int) -> None:
        self.world.restart(node)

    @rule(node=WHICH, is_covered=st.booleans())
    def heal(self, node: int, is_covered: bool) -> None:
        siblings = self.world.siblings[node]
        self.world.heal(siblings)
        assert self.world.heal(siblings).record is None
        if is_covered:
            self.world.cover(node)

    @rule()
    def deliver(self) -> None:
        self.world.deliver()

    @rule()
    def meet(self) -> None:
        """Everything comes back, and what is over is folded."""
        world = self.world
        for node in range(NODES):
            world.heal(world.siblings[node])
        for node in range(NODES):
            world.cover(node)
            world.replicate(node)
        if world.is_whole():
            world.fold()

    def teardown(self) -> None:
        if not hasattr(self, "world") or not self.world.turns:
            return
        world = self.world
        for node in range(NODES):
            world.heal(world.siblings[node])
            world.cover(node)
        assert world.siblings == [NO_SIBLINGS] * NODES
        assert world.heal(NO_SIBLINGS).record is None
        if world.register is None:
            assert not any(turn.is_acked for turn in world.turns)
            return
        self.judge(world, world.register)

    @staticmethod
    def judge(world: Partition, register: Record) -> None:
        final = [turn for turn in world.turns if register.merged.covers(turn.dot)]
        # An orphan's ballot may have been folded: then only what carries it says that it took part.
        final = [
            turn
            for turn in final
            if turn.is_acked or isinstance(lookup(register.dedupe, turn.op, now_ms=0), Hit)
        ]
        assert {turn.dot for turn in world.turns if turn.is_acked} <= {turn.dot for turn in final}
        if world.resolve is merge_counts:
            assert count(register).value == len(final)
            assert world.conflicts == []
        else:
            kept = set(line(register))
            for conflict in world.conflicts:
                kept |= set(line(conflict.record))
            assert {turn.dot for turn in final} <= kept
        ended = {turn.ended for turn in final}
        timers = {each.dot for several in register.timers.by_key.values() for each in several}
        assert timers == {turn.dot for turn in final} - ended
        while register.outbox.signals:
            for signal in register.outbox.due():
                world.take(signal.dot, signal.place)
            register = replace(register, outbox=register.outbox.without(world.delivered))
        assert sorted(world.taken) == sorted(turn.dot for turn in final)


class Counted(Apart):
    resolve: ClassVar[Resolve | None] = merge_counts


class Logged(Apart):
    resolve: ClassVar[Resolve | None] = None


class Failing(Apart):
    resolve: ClassVar[Resolve | None] = fail


TestCounted = Counted.TestCase
TestLogged = Logged.TestCase
TestFailing = Failing.TestCase
for _machine in (Counted, Logged, Failing):
    _machine.TestCase.settings = settings(stateful_step_count=40)
