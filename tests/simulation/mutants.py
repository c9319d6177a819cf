"""Rules of the protocol, each broken in one place: what the simulator must be able to see.

Each has a schedule that catches it: a short story, told step by step, that ends well with all rules
in place. Most are also caught by random seeds: `make sim MUTANT=word SEEDS=n`, and
`docs/simulation.md` for what came of it.
"""

from typing import Final

from tests.simulation.breaking import Edit, Mutant

__all__ = ["MUTANTS"]


def _one(name: str, rule: str, schedule: str, module: str, before: str, after: str) -> Mutant:
    return Mutant(name, rule, (Edit(module, before, after),), schedule)


_ACCEPTOR: Final = "jido_state.acceptor"
_APPENDS: Final = "jido_state.appends"
_GROUP: Final = "jido_state.group"
_JOURNAL: Final = "jido_state.journal"
_ELECTION: Final = "jido_state.election"
_LEADERSHIP: Final = "jido_state.leadership"
_ROUNDS: Final = "jido_state.rounds"
_UPKEEP: Final = "jido_state.upkeep"
_TURNS: Final = "jido_state.turns"
_MACHINE: Final = "jido_state.simulation.machine"
_AUTHORITY: Final = "jido_state.simulation.authority"
_CONFIG: Final = "jido_placement.config"

MUTANTS: Final = (
    # Section 4 of the protocol
    Mutant(
        "new config without a leader of the joint one",
        "I8: NEW only after JOINT_DONE of a ballot of that joint config",
        (
            Edit(_LEADERSHIP, "        goes_on = is_end or is_same\n", "        goes_on = True\n"),
            Edit(
                _LEADERSHIP,
                "            and self.ballot.config == config.number\n            and not",
                "            and not",
            ),
            Edit(
                _AUTHORITY,
                "if ballot is not None and ballot.config == config.number:",
                "if ballot is not None:",
            ),
        ),
        "schedules_configs:new_needs_a_leader_of_the_joint_config",
    ),
    Mutant(
        "restarted leader resumes its ballot",
        "1.5: a restarted process never continues a ballot",
        (
            Edit(
                _ELECTION,
                "        if is_transfer:\n",
                "        if is_transfer or seat.acceptor.promised.node == seat.node:\n",
            ),
            Edit(
                _ELECTION,
                "        self._ballot = seat.next_ballot()\n        self._phase = PROMISING\n",
                "        mine = seat.acceptor.promised\n"
                "        is_mine = mine.node == seat.node and mine.config == seat.config.number\n"
                "        self._ballot = mine if is_mine and mine.round else seat.next_ballot()\n"
                "        self._phase = PROMISING\n",
            ),
        ),
        "schedules_leaders:a_ballot_is_used_once",
    ),
    _one(
        "no rewrite of what is not on a quorum",
        "I4: a leader answers from a key only if it is clean",
        "schedules_leaders:what_is_not_on_a_quorum_is_written_again",
        _ELECTION,
        "            if not seat.config.is_quorum(holders):\n",
        "            if False:\n",
    ),
    _one(
        "tombstone reaped under the ballot that wrote it",
        "I10: reaped under a later ballot",
        "schedules_records:a_tombstone_outlives_its_ballot",
        _UPKEEP,
        "            and row.tomb < self._leadership.ballot\n",
        "            and row.tomb <= self._leadership.ballot\n",
    ),
    _one(
        "read of pending state",
        "I4: reads see committed state",
        "schedules_leaders:a_read_sees_what_is_committed",
        _TURNS,
        "        row = leadership.view.get(key)\n        # Absence",
        "        pending = leadership._pending.get(key)\n"
        "        row = leadership.view.get(key) if pending is None else pending.row\n"
        "        # Absence",
    ),
    _one(
        "empty store votes",
        "R0: a lost store comes back under a new number",
        "schedules_replicas:a_lost_store_is_silent",
        _MACHINE,
        "        if (shard, mine) in formatted:\n",
        "        if False:\n",
    ),
    _one(
        "joint leader knows only its own keys",
        "1.10: recovered from, and settled to, both quorums",
        "schedules_configs:a_joint_leader_learns_all_keys",
        _ELECTION,
        "        lists = [listing.rows for",
        "        lists = [] if seat.config.is_joint else [listing.rows for",
    ),
    _one(
        "read joins a CONFIRM round in flight",
        "1.8: a read is served by a round that began after it came",
        "schedules_leaders:a_read_waits_for_the_next_round",
        _ROUNDS,
        "        self._next_reads.append(read)\n",
        "        (self._next_reads if self._round is None else self._round.reads).append(read)\n",
    ),
    _one(
        "header made because a config names the node",
        "R0: only the root group's present answer lets a header be made",
        "schedules_replicas:an_old_answer_makes_no_header",
        _MACHINE,
        "            if message.asked == self._life.question:\n",
        "            if True:\n",
    ),
    Mutant(
        "anti-entropy installs records",
        "I3: registers change only by ACCEPT",
        (
            Edit(
                _UPKEEP,
                "            self._ask(replica, 0)\n",
                "            from jido_state.messages import Copy\n\n"
                "            number = self._seat.config.number\n"
                "            self._seat.acceptor.copy(replica, Copy(number, 0))\n",
            ),
            Edit(
                "jido_state.learning",
                '        if acceptor.header.status == "learner" and message.start ==',
                '        if acceptor.header.status == "voter":\n'
                "            for key, row in message.rows:\n"
                "                mine = acceptor.rows.get(key)\n"
                "                if mine is None or mine.version < row.version:\n"
                "                    acceptor.put(key, row)\n"
                "        elif message.start ==",
            ),
        ),
        "schedules_replicas:followers_take_records_from_leaders_only",
    ),
    _one(
        "PREPARE before the own promise is durable",
        "1.5: own promise first",
        "schedules_leaders:the_own_promise_comes_first",
        _ELECTION,
        "        seat.journal.when_durable(self._promised_itself, self._ballot)\n",
        "        self._promised_itself(self._ballot)\n",
    ),
    _one(
        "removed replica forgets",
        "1.10: header and promise stay for ever",
        "schedules_replicas:a_removed_replica_remembers",
        _ACCEPTOR,
        "        self.header = self.header._replace(config=config, status=status)\n",
        "        self.header = (\n"
        "            self.header._replace(promised=Ballot(0, 0, 0, 0))\n"
        '            if status == "removed"\n'
        "            else self.header._replace(config=config, status=status)\n"
        "        )\n",
    ),
    Mutant(
        "replica that is added again keeps its records",
        "1.10: added again is another replica, and empty",
        (
            Edit(
                _ACCEPTOR,
                '        if status == "removed" and (self.rows or self.staged):\n',
                "        if False:\n",
            ),
            Edit(
                "jido_state.group",
                "        self._journal.clear_rows()\n        self._journal.write_header(",
                "        self._journal.write_header(",
            ),
            Edit(
                _MACHINE,
                "        self._open(shard, header, {})\n",
                "        self._open(shard, header, self._scan(shard)[0])\n",
            ),
        ),
        "schedules_replicas:added_again_is_empty",
    ),
    _one(
        "what a learner copied becomes its records",
        "1.10: staged bytes only spare a transfer",
        "schedules_replicas:copies_are_no_records",
        _ACCEPTOR,
        "        self._journal.write_header(self.header)\n        if status ==",
        "        self._journal.write_header(self.header)\n"
        '        if before == "learner" and status == "voter":\n'
        "            for key, row in self.staged.items():\n"
        "                self.put(key, row)\n"
        "        if status ==",
    ),
    # T04 of the notes on reliability, as far as they differ
    _one(
        "promise leaves before it is durable",
        "I2: promised durable, then PROMISE",
        "schedules_leaders:a_promise_outlives_a_power_cut",
        _ACCEPTOR,
        "        self._journal.send_when_durable(sender.node, self.promise_of(",
        "        self._journal.send(sender.node, self.promise_of(",
    ),
    _one(
        "ack leaves before it is durable",
        "I6: an answer implies a quorum of durable acks",
        "schedules_leaders:an_ack_is_durable",
        _ACCEPTOR,
        "            self._journal.when_durable(self._ack, ",
        "            self._ack(",
    ),
    _one(
        "accepts below its promise",
        "I3: written under b only if b >= promised",
        "schedules_leaders:nothing_below_the_promise_is_stored",
        _ACCEPTOR,
        "        if self.refuses(sender, ballot):\n            return\n",
        "",
    ),
    Mutant(
        "learner votes",
        "I7: learners count for no quorum",
        (
            Edit(
                _CONFIG,
                "            return self.voters\n"
                "        return self.voters + tuple(one for one in self.joining if",
                "            return self.voters + self.learners\n"
                "        return self.voters + self.learners + tuple(one for one in self.joining if",
            ),
            Edit(
                _CONFIG,
                "        return _is_majority(self.voters, replicas) and (",
                "        both = self.voters + self.learners\n"
                "        return 2 * sum(one in replicas for one in both) > len(self.voters) and (",
            ),
        ),
        "schedules_configs:a_learner_does_not_vote",
    ),
    _one(
        "strong read without CONFIRM",
        "1.8: a strong read needs a round",
        "schedules_leaders:a_deposed_leader_reads_nothing",
        _TURNS,
        '        if request.level == "strong":\n',
        "        if False:\n",
    ),
    _one(
        "round that began before the request",
        "1.8: the round that vouches for an absence begins after the request came",
        "schedules_leaders:an_old_round_vouches_for_nothing_new",
        _TURNS,
        "        return any(one is request for one in self._vouched.get(request.key, ()))\n",
        "        return request.key in self._vouched\n",
    ),
    _one(
        "op ids are not remembered",
        "I12: at most one effect of an operation",
        "schedules_records:an_operation_takes_effect_once",
        _TURNS,
        "        if row is not None and record is not None and request.op is not None:\n",
        "        if False:\n",
    ),
    _one(
        "a spawn takes the place of any life",
        "1.11: one life at a time, each made once",
        "schedules_records:a_new_life_takes_the_place_of_the_named_one",
        _TURNS,
        "record.lives == {request.over}",
        "True",
    ),
    _one(
        "intermediate config skipped",
        "I8: NEW follows the joint config",
        "schedules_configs:a_joint_config_comes_between",
        _AUTHORITY,
        "            self._commit(shard, GroupConfig(config.number + 1, config.voters, target))\n",
        "            self._commit(shard, GroupConfig(config.number + 1, target))\n",
    ),
    _one(
        "tombstone reaped although a replica lacks it",
        "I10: all replicas hold the tombstone",
        "schedules_records:a_tombstone_waits_for_all",
        _UPKEEP,
        "        if any(one not in holders for one in seat.config.members):\n",
        "        if not seat.config.is_quorum(holders):\n",
    ),
    _one(
        "tombstone reaped before op ids are forgotten",
        "1.11: the dedupe window is over",
        "schedules_records:a_tombstone_remembers_op_ids",
        _UPKEEP,
        "            now - leadership.began_ms < settings.dedupe_window_ms\n            or ",
        "            ",
    ),
    _one(
        "tombstone reaped with undelivered signals",
        "1.11: nothing is left to be done by a tombstone that goes",
        "schedules_splits:a_tombstone_delivers_its_signals",
        _UPKEEP,
        "            row.flags == IS_TOMB\n",
        "            row.flags & ~2 == IS_TOMB\n",
    ),
    _one(
        "tombstone reaped while entries may come",
        "1.12: an actor leaves the record when nobody holds its entries",
        "schedules_splits:a_tombstone_waits_for_entries",
        _UPKEEP,
        "            row.flags == IS_TOMB\n",
        "            row.flags & ~8 == IS_TOMB\n",
    ),
    _one(
        "session token ignored",
        "1.8: a newer token makes a leader refuse",
        "schedules_leaders:a_session_sees_its_own_writes",
        _TURNS,
        '        if token is None or request.level == "eventual":\n',
        "        if True:\n",
    ),
    # Our own
    _one(
        "answer names the record's version, not the row's",
        "1.8: the session has seen what its answer rests on",
        "schedules_records:a_repeated_answer_is_as_new_as_its_row",
        _TURNS,
        "                seen = max(row.version, leadership.ballot.version(0))\n",
        "                seen = record.version\n",
    ),
    _one(
        "answer names a version of another leader",
        "1.8: who wrote it may lead yet, and not know that it is committed",
        "schedules_records:a_repeated_answer_is_of_its_leader",
        _TURNS,
        "                seen = max(row.version, leadership.ballot.version(0))\n",
        "                seen = row.version\n",
    ),
    _one(
        "own ack before it is durable",
        "1.7: self counts only when durable",
        "schedules_leaders:the_own_ack_is_durable_too",
        _LEADERSHIP,
        "            seat.journal.when_durable(self._own_ack, self.ballot, tuple(numbers))\n",
        "            self._own_ack(self.ballot, tuple(numbers))\n",
    ),
    _one(
        "half of a joint quorum is enough",
        "1.1: majorities of both",
        "schedules_configs:both_majorities_count",
        _CONFIG,
        "            not self.joining or _is_majority(",
        "            True or _is_majority(",
    ),
    _one(
        "spoilt list counts as a whole one",
        "I7: unknown counts for no quorum",
        "schedules_replicas:what_rotted_is_not_absent",
        _ELECTION,
        "        if not message.is_whole:\n",
        "        if False:\n",
    ),
    _one(
        "spoilt replica promises to be whole",
        "I7: unknown counts for no quorum",
        "schedules_replicas:a_spoilt_replica_does_not_know_what_is_absent",
        _ACCEPTOR,
        "        self.is_whole = not self._bad\n",
        "        self.is_whole = True\n",
    ),
    _one(
        "own tombstone counts before it is durable",
        "I10: all replicas hold the tombstone",
        "schedules_records:the_own_tombstone_is_durable_too",
        _LEADERSHIP,
        "        return version[:4] != self.ballot or version.number <= self._durable\n",
        "        return True\n",
    ),
    _one(
        "staged content of another version",
        "1.10: staged bytes are named by version",
        "schedules_configs:staged_content_is_named_by_version",
        _ACCEPTOR,
        "                    if copied is None or copied.version != row.content.version:\n",
        "                    if copied is None:\n",
    ),
    _one(
        "refused boot goes on",
        "1.13: any other pair refuses the directory",
        "schedules_replicas:a_cloned_directory_is_refused",
        _MACHINE,
        "        if not answer.is_granted:\n",
        "        if False:\n",
    ),
    _one(
        "image of an intent is confirmed",
        "1.13: only a pair drawn in this life lets a process answer",
        "schedules_replicas:an_image_with_an_intent_is_refused",
        _MACHINE,
        "        if pair == life.boot:\n",
        "        if True:\n",
    ),
    _one(
        "store that was set back votes",
        "finding 4: peers remember how much a store had written",
        "schedules_replicas:a_store_that_was_set_back_is_lost",
        _APPENDS,
        "                is_there = False\n",
        "                is_there = True\n",
    ),
    _one(
        "store that was set back acks before it is checked",
        "finding 4: who may remember is heard first",
        "schedules_replicas:a_store_is_checked_before_it_acks",
        _GROUP,
        "        self._is_checked = life == 0 or appended == 0\n",
        "        self._is_checked = True\n",
    ),
    _one(
        "what a full disk refused is forgotten",
        "I6: durable means in order, and whole",
        "schedules_replicas:what_a_full_disk_refused_is_written_again",
        _MACHINE,
        "            self._refused(place)\n            return\n",
        "            tickets.clear()\n            return\n",
    ),
    _one(
        "store file without a lock",
        "1.14: one process on one file",
        "schedules_replicas:a_file_has_one_process",
        _MACHINE,
        "process=self.process))\n        self._life.tickets",
        "process=self.process, lock=False))\n        self._life.tickets",
    ),
    _one(
        "evidence ends when the node is back",
        "1.5: evidence is against the process that led",
        "schedules_leaders:evidence_outlives_the_return_of_its_node",
        "jido_state.seat",
        "            self.gone.discard(node)\n            return\n",
        "            self.gone.discard(node)\n"
        "            self.dead = NO_BALLOT\n            return\n",
    ),
    _one(
        "evidence holds against a later ballot",
        "1.5: evidence is against the process that led",
        "schedules_leaders:evidence_is_of_one_ballot",
        "jido_state.seat",
        "        return self.followed == self.dead != NO_BALLOT\n",
        "        return self.followed.node == self.dead.node and self.dead != NO_BALLOT\n",
    ),
    _one(
        "who is gone is let begin first",
        "1.5: rank is a place among those who may be there",
        "schedules_leaders:evidence_outlives_the_return_of_its_node",
        "jido_state.seat",
        "            rank += node not in self.gone and not",
        "            rank += True or not",
    ),
    _one(
        "op ids of other callers are evicted",
        "1.11: remembered for the dedupe window",
        "schedules_parts:a_caller_is_remembered_for_the_window",
        "jido_state.dedupe",
        "for other, each in entries.items() if age_of(each.used_ms, now_ms) <= window_ms\n",
        "for other, each in entries.items() if age_of(each.used_ms, now_ms) <= 0\n",
    ),
    _one(
        "timer fires twice",
        "I12: an occurrence takes effect once",
        "schedules_parts:an_occurrence_fires_once",
        "jido_state.timers",
        "(timer.dot, timer.occurrence) != (fired.dot, fired.occurrence)",
        "timer.dot != fired.dot",
    ),
    _one(
        "session token goes back",
        "1.8: at least what the session has seen",
        "schedules_parts:a_token_never_goes_back",
        "jido_state.session",
        "        versions[shard] = max(known, version)\n",
        "        versions[shard] = version\n",
    ),
    _one(
        "sibling dropped",
        "1.12: losers are logged",
        "schedules_parts:nothing_acknowledged_disappears",
        "jido_state.merge",
        "for value in taken if value is not winner]",
        "for value in taken if value is None]",
    ),
    _one(
        "merge keeps the op ids of one side",
        "1.12: runtime fields by fixed union",
        "schedules_parts:both_sides_have_done_what_they_did",
        "jido_state.merge",
        "dedupe=union(first.dedupe, [record.dedupe for record in records[1:]], now_ms=now_ms)",
        "dedupe=first.dedupe",
    ),
    Mutant(
        "root group goes by an older config of itself",
        "1.13: the config of the newest record accepted",
        (
            Edit(
                _ACCEPTOR,
                "            self.use(self._config_of(row.content))\n",
                "            pass\n",
            ),
            Edit(
                _LEADERSHIP,
                "        return self.other_config is not None\n",
                "        self.other_config = None\n        return False\n",
            ),
        ),
        "schedules_parts:the_root_group_goes_by_its_newest_record",
    ),
    # Agents kept in memory
    _one(
        "memory of the leader is enough",
        "finding 44: acks count when in the memory of a quorum",
        "schedules_memory:the_memory_of_the_leader_is_no_quorum",
        _LEADERSHIP,
        "        return self.config.is_quorum(pending.acks) and (\n",
        "        return (pending.in_memory or self.config.is_quorum(pending.acks)) and (\n",
    ),
    _one(
        "ack from memory under a promise that is not durable",
        "finding 44: promises stay durable before they are sent",
        "schedules_memory:an_ack_is_given_under_a_durable_promise",
        _JOURNAL,
        "        if self._header is not None or self._header_ticket in self._waiting:\n",
        "        if False:\n",
    ),
    _one(
        "disk write acked from memory",
        "I6: an answer implies a quorum of durable acks",
        "schedules_memory:a_disk_write_is_not_acked_from_memory",
        _ACCEPTOR,
        "        if numbers and message.in_memory and",
        "        if numbers and",
    ),
    _one(
        "own disk write acked from memory",
        "1.7: self counts only when durable",
        "schedules_memory:the_own_disk_write_is_not_acked_from_memory",
        _LEADERSHIP,
        "for _, each in fresh if each.in_memory]",
        "for _, each in fresh]",
    ),
    _one(
        "ack from memory counts as written",
        "finding 4: the counter is of what is durable",
        "schedules_memory:an_ack_from_memory_counts_nothing_as_written",
        _ACCEPTOR,
        "numbers, self.appends.own))",
        "numbers, self.appends.own._replace(appended=self.appends.own.appended + 2)))",
    ),
    _one(
        "memory of a single replica is enough",
        "finding 44: survives any one crash",
        "schedules_memory:a_single_replica_waits_for_its_disk",
        _LEADERSHIP,
        "        return not is_changing and not is_one and",
        "        return not is_changing and",
    ),
    _one(
        "acks from memory beside a disk that hangs",
        "finding 44: fsync follows",
        "schedules_memory:a_disk_that_hangs_is_waited_for",
        _JOURNAL,
        "        return oldest_ms is None or self._now_ms - oldest_ms < within_ms\n",
        "        return True\n",
    ),
    _one(
        "move content with memory",
        "finding 44: what is durable stays so",
        "schedules_memory:a_move_waits_for_disks",
        _LEADERSHIP,
        "self._propose(key, row._replace(version=self._next_version()), row.version)",
        "self._propose(key, row._replace(version=self._next_version()), row.version, "
        "in_memory=True)",
    ),
    _one(
        "turn in memory while replicas change",
        "finding 44: what is durable stays so",
        "schedules_memory:turns_during_a_move_wait_for_disks",
        _LEADERSHIP,
        "        return not is_changing and not is_one and",
        "        return not is_one and",
    ),
    _one(
        "what a replica has forgotten is not sent again",
        "finding 44: survives any one crash",
        "schedules_memory:what_is_forgotten_is_sent_again",
        _UPKEEP,
        "        if is_new:\n",
        "        if False:\n",
    ),
    _one(
        "what was acked from memory is forgotten",
        "finding 44: another member of the quorum has it in memory",
        "schedules_memory:a_crash_does_not_cost_what_is_in_memory",
        _ACCEPTOR,
        "            self._ack(sender.node, config, ballot, tuple(numbers))\n        elif",
        "            self._ack(sender.node, config, ballot, tuple(numbers))\n"
        "            for key, _ in message.rows:\n"
        "                self.forget(key)\n        elif",
    ),
)
