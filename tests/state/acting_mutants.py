"""Rules of acting, healing and chores, each broken in one place, with the schedule that sees it."""

from typing import Final

from tests.simulation.breaking import Edit, Mutant

__all__ = ["MUTANTS"]


def _one(name: str, rule: str, schedule: str, module: str, before: str, after: str) -> Mutant:
    return Mutant(name, rule, (Edit(f"jido_state.{module}", before, after),), schedule)


MUTANTS: Final = (
    _one(
        "divergence merge",
        "1.12: a type's own merge decides",
        "siblings_stay_side_by_side",
        "requests",
        "        return plain if own is None else self._merge(own)\n",
        "        return plain\n",
    ),
    _one(
        "sibling dropped",
        "1.12: entries that have not seen each other stay",
        "siblings_meet_without_a_leader",
        "divergence",
        "        entries = [by_dot[dot] for dot in sorted(by_dot)]\n",
        "        entries = [by_dot[max(by_dot)]]\n",
    ),
    _one(
        "session token ignored while acting",
        "finding 23: only who holds what the session has seen serves it",
        "a_session_never_sees_less",
        "levels",
        "    return request.token.at_acting(shard, version, request.key, seen) is Trust.SERVE\n",
        "    return True\n",
    ),
    _one(
        "session token ignored by the leader",
        "1.8: dots that are not merged are waited for",
        "a_leader_waits_for_what_a_session_has_seen",
        "turns",
        "        return trust is Trust.NOT_HERE or trust is Trust.WAIT\n",
        "        return False\n",
    ),
    _one(
        "timer twice",
        "finding 30: a firing's commit moves the timer on",
        "a_timer_fires_once_over_leaders",
        "requests",
        "        left = record.timers.fire(*request.payload)\n",
        "        left = None\n",
    ),
    Mutant(
        "timer early",
        "finding 30: not before its time on the leader's wall clock",
        (
            Edit(
                "jido_state.chores",
                "        while self._heap and self._heap[0][0] <= self.wall_ms:\n",
                "        while self._heap and self._heap[0][0] <= self.wall_ms + 1_000:\n",
            ),
            Edit(
                "jido_state.timers",
                "if timers[-1].due_ms <= now_ms]",
                "if timers[-1].due_ms <= now_ms + 1_000]",
            ),
        ),
        "a_timer_is_not_early",
    ),
    _one(
        "entry deleted before cover",
        "1.12: kept until a committed record has seen it",
        "an_uncovered_entry_is_kept",
        "healing_entries",
        "        if key not in self._merging:\n",
        "        self._cover(node, key, left.seen())\n        if key not in self._merging:\n",
    ),
    _one(
        "copy given up",
        "finding 21: a copy that counted is kept",
        "a_copy_that_counted_is_kept",
        "entries",
        "            self.put(key, joined)\n        if key in self.held",
        "            self.held[key] = joined\n        if key in self.held",
    ),
    _one(
        "copy counted before it is durable",
        "I6: an answer names durable copies",
        "a_copy_is_durable_before_it_counts",
        "entries",
        "        self.when_durable(self._emit, SendEntries(sender, PutAck(message.number, key)))\n",
        "        self._emit(SendEntries(sender, PutAck(message.number, key)))\n",
    ),
    _one(
        "acting period resumed",
        "I11: every dot belongs to one linear history",
        "an_acting_period_is_never_resumed",
        "entries",
        "        self._period = self._fresh_period = max(self._period, rno << _RNO_SHIFT) + 1\n",
        "        self._period = self._fresh_period = (rno << _RNO_SHIFT) + 1\n",
    ),
    _one(
        "period goes on after a cover",
        "I11: nobody counts on from what was dropped",
        "a_cover_ends_the_acting_period",
        "acting",
        "        self._actor = self._reserved = None\n        for agent in self._agents.values():\n"
        "            turn = agent.turn\n            if turn is not None and not turn.is_written:\n",
        "        return\n        for agent in self._agents.values():\n"
        "            turn = agent.turn\n            if turn is not None and not turn.is_written:\n",
    ),
    _one(
        "repeated answer not kept",
        "I6: what is answered again is held as well",
        "what_is_answered_again_is_kept",
        "acting",
        "            elif refusal.status is Status.OK and view.is_bare:\n",
        "            elif False:\n",
    ),
    _one(
        "no such agent, says who acts",
        "finding 35: it may be elsewhere",
        "what_is_not_here_may_be_elsewhere",
        "acting",
        "            return self._refused(request, Status.NO_QUORUM)\n",
        "            return self._refused(request, Status.NOT_FOUND)\n",
    ),
    _one(
        "folded while a member is away",
        "1.12: every member has said that it holds none",
        "an_actor_is_folded_when_nobody_holds_its_entries",
        "healing_entries",
        "        if poll.missing:\n            return\n",
        "",
    ),
    _one(
        "entries of a member that was removed",
        "1.12: folded without it, since it was given up",
        "who_was_removed_brings_nothing_back",
        "service",
        "        if self.members and node not in self.members:\n",
        "        if False:\n",
    ),
    _one(
        "no entries, says who has not heard of a removal",
        "1.12: every member has said it of the same members",
        "who_has_not_heard_of_a_removal_is_waited_for",
        "service",
        "            is_known = message.epoch <= self.epoch\n",
        "            is_known = True\n",
    ),
    _one(
        "removed, and acting still",
        "R0: who is removed does nothing",
        "a_replica_that_is_removed_while_it_acts_stops",
        "service",
        "            if self.acting.is_acting:\n                self.acting.stop(None)\n",
        "",
    ),
    _one(
        "signal taken twice",
        "finding 29: the receiver keeps the last name of a stream",
        "a_signal_that_is_sent_again_is_taken_once",
        "requests",
        "    return replace(record, receipts=receipts)\n",
        "    return record\n",
    ),
)
