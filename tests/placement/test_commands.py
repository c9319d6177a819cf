"""What the root group accepts, what it refuses, and that refusals change nothing."""

import pytest

from jido_placement.changes import apply, apply_all
from jido_placement.commands import (
    Abort,
    Accepted,
    Assign,
    BecomeUp,
    BeginJoint,
    Command,
    DeclareDown,
    Describe,
    Finish,
    ForceRecover,
    Formatted,
    Join,
    Leave,
    MayFormat,
    NameLearners,
    Prefer,
    Reason,
    Refused,
    RegisterBoot,
    Remove,
    Retarget,
    SetAgreed,
    StoreLost,
)
from jido_placement.config import GroupConfig, Replica
from jido_placement.membership import Status
from jido_placement.record import (
    MAX_NODE,
    ROOT,
    GroupRecord,
    MemberRecord,
    Record,
    found,
    root_size,
)
from tests.placement.records import done, down, formed, joined, leaving, with_node


def refusal(record: Record, command: Command) -> Reason:
    """Why the command is refused; it leaves the very same record."""
    after, answer = apply(record, command)
    assert after is record
    assert isinstance(answer, Refused), answer
    assert answer.text
    return answer.reason


def unchanged(record: Record, command: Command) -> int:
    """What the command is answered with that holds already."""
    after, answer = apply(record, command)
    assert after is record
    assert isinstance(answer, Accepted)
    assert not answer.is_change
    return answer.value


def join(id: str = "new", *, nonce: int = 1, agreed: str = "a", **fields: object) -> Join:
    values = {"name": id, "labels": (), "weight": 1.0, "zone": None} | fields
    return Join(id, nonce, agreed=agreed, **values)  # type: ignore[arg-type]


def status_of(record: Record, node: int) -> Status:
    member = record.member(node)
    assert member is not None
    return member.status


# Members.


def test_a_node_joins_once_and_gets_a_number_that_nobody_had() -> None:
    """Asking again is answered alike; the number of a removed member is not given again."""
    record = done(joined(1), join("b", labels=(("z", "1"), ("a", "2"))))
    member = record.member_of_id("b")
    assert member is not None
    assert (member.node, member.boot, member.status) == (1, 1, Status.JOINING)
    assert member.labels == (("a", "2"), ("z", "1"))
    assert unchanged(record, join("b")) == 1
    assert refusal(record, join("b", nonce=2)) is Reason.ALREADY_MEMBER
    record = done(record, DeclareDown(1, 1), Remove(1), join("c"))
    assert record.member(1) is None
    assert record.member_of_id("b") is None
    assert [one.node for one in record.members] == [0, 2]


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (join(agreed="other"), Reason.WRONG_AGREEMENT),
        (join(weight=-1.0), Reason.INVALID),
        (join(weight=float("nan")), Reason.INVALID),
        (join(zone=""), Reason.INVALID),
        (join(""), Reason.INVALID),
        (join(name="x" * 129), Reason.INVALID),
        (join(labels=(("a", "1"), ("a", "2"))), Reason.INVALID),
        (join(labels=tuple((str(n), "") for n in range(65))), Reason.INVALID),
        (join(labels=(("a", "x" * 129),)), Reason.INVALID),
    ],
)
def test_joins_that_are_refused(command: Command, reason: Reason) -> None:
    """Another configuration, and values out of range."""
    assert refusal(joined(1), command) is reason


def test_numbers_run_out_in_the_end() -> None:
    """After 65,536 joins no number is left, and saying so beats using one again."""
    record = joined(1)
    last = found("c", record.members[0], shards=1, agreed="a")
    full = Record(**{name: getattr(last, name) for name in last.__slots__} | {"next_node": 65_536})
    assert full.next_node == MAX_NODE + 1
    assert refusal(full, join()) is Reason.FULL


def test_a_boot_moves_from_the_pair_before_or_is_confirmed() -> None:
    """Anything else in the record means that the directory is a copy, or an old one."""
    record = joined(1)
    first, second = RegisterBoot("id-0", 2, 7, 100, "a"), RegisterBoot("id-0", 3, 8, 7, "a")
    record = done(record, first)
    assert unchanged(record, first) == 0
    record = done(record, second)
    # A backup of boot 2, a copy that started in its own boot 3, one that skipped a boot.
    assert refusal(record, first) is Reason.WRONG_BOOT
    assert refusal(record, RegisterBoot("id-0", 3, 9, 7, "a")) is Reason.WRONG_BOOT
    assert refusal(record, RegisterBoot("id-0", 5, 9, 8, "a")) is Reason.WRONG_BOOT
    # The next boot of a copy: it never held the nonce of the last one.
    assert refusal(record, RegisterBoot("id-0", 4, 9, 7, "a")) is Reason.WRONG_BOOT
    assert refusal(record, RegisterBoot("nobody", 2, 9, 8, "a")) is Reason.UNKNOWN_MEMBER
    assert refusal(record, RegisterBoot("id-0", 4, 9, 8, "b")) is Reason.WRONG_AGREEMENT


def test_a_member_that_was_given_up_comes_back_with_its_next_boot() -> None:
    """With its number and its replicas; and goes on leaving if it was to leave."""
    record = down(formed(3), 2)
    named = record.groups_naming(2)
    assert named
    back = done(record, RegisterBoot("id-2", 2, 7, 100, "a"))
    assert status_of(back, 2) is Status.UP
    assert back.groups_naming(2) == named
    retired = done(leaving(record, 2), RegisterBoot("id-2", 2, 7, 100, "a"))
    assert status_of(retired, 2) is Status.LEAVING


def test_a_restart_does_not_take_a_member_out_of_service() -> None:
    """Who was up stays up, so that nothing is moved away from it meanwhile."""
    record = done(formed(3), RegisterBoot("id-1", 2, 7, 100, "a"))
    assert status_of(record, 1) is Status.UP


def test_status_goes_forward_within_a_boot() -> None:
    """Late news of an earlier boot, and steps back, are refused."""
    record = with_node(joined(1), "b")
    assert unchanged(record, BecomeUp(1, 1)) == 1
    record = leaving(record, 1)
    assert refusal(record, BecomeUp(1, 1)) is Reason.WRONG_STATUS
    assert unchanged(record, Leave(1)) == 1
    record = done(down(record, 1), RegisterBoot("b", 2, 7, 100, "a"))
    assert refusal(record, DeclareDown(1, 1)) is Reason.STALE
    assert refusal(record, DeclareDown(9, 1)) is Reason.UNKNOWN_MEMBER
    assert refusal(record, Leave(9)) is Reason.UNKNOWN_MEMBER


def test_the_last_member_that_is_up_does_not_leave() -> None:
    """Nobody would take over, and nothing brings it back."""
    record = leaving(down(formed(3), 2), 1)
    assert refusal(record, Leave(0)) is Reason.WRONG_STATUS
    assert unchanged(record, Leave(1)) == 1
    assert isinstance(apply(record, Leave(2))[1], Accepted)


def test_a_member_is_forgotten_only_when_nothing_names_it() -> None:
    """Whoever holds a replica, or is in the root group, keeps its identity and its vote."""
    record = formed(3)
    assert refusal(record, Remove(2)) is Reason.WRONG_STATUS
    after, answer = apply(down(record, 2), Remove(2))
    assert isinstance(answer, Refused)
    assert answer.reason is Reason.STILL_NAMED
    assert answer.text == "member 2 is named by root, 0, 1, 2, 3, 4, 5, 6 and more"
    assert after.member(2) is not None
    assert refusal(record, Remove(9)) is Reason.UNKNOWN_MEMBER
    gone = done(record, join("b"), DeclareDown(3, 1), Remove(3))
    assert unchanged(gone, Remove(3)) == 3
    assert unchanged(gone, Leave(3)) == 3


def test_descriptions_change_by_compare_and_set() -> None:
    """An older view changes nothing; the same description again is no change."""
    record = joined(2)
    new = Describe(record.epoch, 1, (("a", "1"),), 2.0, "z")
    after = done(record, new)
    assert unchanged(after, new) == 1
    assert refusal(after, new._replace(weight=3.0)) is Reason.STALE
    assert refusal(after, Describe(after.epoch, 1, (), -1.0, None)) is Reason.INVALID
    assert refusal(after, Describe(after.epoch, 9, (), 1.0, None)) is Reason.UNKNOWN_MEMBER
    agreed = SetAgreed(after.epoch, "b")
    final = done(after, agreed)
    assert final.agreed == "b"
    unchanged(final, agreed)
    assert refusal(final, SetAgreed(after.epoch, "c")) is Reason.STALE


# Groups.


def test_shards_are_assigned_once_and_not_too_early() -> None:
    """As many members as expected are up, the root group has its size, each shard gets a list."""
    lists = ((0,),) * 16
    record = joined(3)
    assert refusal(record, Assign(record.epoch, lists, ())) is Reason.NOT_FORMED
    few = joined(1)
    early = Record(**{name: getattr(few, name) for name in few.__slots__} | {"expect": 2})
    assert refusal(early, Assign(early.epoch, lists, ())) is Reason.NOT_FORMED
    assert not few.is_serving
    assert refusal(few, Assign(few.epoch, lists[1:], ())) is Reason.INVALID
    assert refusal(few, Assign(few.epoch, ((0, 0), *lists[1:]), ())) is Reason.INVALID
    assert refusal(few, Assign(few.epoch, ((7,), *lists[1:]), ())) is Reason.INVALID
    assert refusal(few, Assign(few.epoch + 1, lists, ())) is Reason.STALE
    assert refusal(few, Retarget(few.epoch, lists, ())) is Reason.STALE
    formed_one = done(few, Assign(few.epoch, lists, ()))
    assert formed_one.is_serving
    assert formed_one.shards[3] == GroupRecord(GroupConfig(1, (Replica(0, 1),)), (), 2)
    assert refusal(formed_one, Assign(formed_one.epoch, lists, ())) is Reason.STALE
    unchanged(formed_one, Retarget(formed_one.epoch, lists, ()))
    assert refusal(formed_one, Retarget(formed_one.epoch, ((9,),) * 16, ())) is Reason.INVALID


@pytest.mark.parametrize(
    ("members", "size"), [(1, 1), (2, 2), (3, 3), (4, 3), (5, 5), (6, 5), (1_000, 5)]
)
def test_root_group_size(members: int, size: int) -> None:
    """One, two, three or five, so that each size tolerates more than the one before."""
    assert root_size(members) == size


def moved(record: Record) -> tuple[Record, Replica, Replica]:
    """Shard 0 with the first voter's place taken over by node 3, up to the joint config."""
    voters = record.shards[0].config.voters
    record = done(record, NameLearners(0, 1, (3,)))
    (learner,) = record.shards[0].config.learners
    record = done(record, Formatted(0, learner))
    nodes = (3, *(one.node for one in voters[1:]))
    return done(record, BeginJoint(0, 2, nodes)), voters[0], learner


def four() -> Record:
    """Three members that hold all shards, and a fourth."""
    return with_node(formed(3), "id-3")


def test_a_replica_moves_by_learner_joint_and_new() -> None:
    """Each step raises the config number; the new replica has a number that was never used."""
    record, old, new = moved(four())
    assert new == Replica(3, 4)
    assert record.shards[0].config.number == 3
    assert record.shards[0].config.is_joint
    record = done(record, Finish(0, 3, 0, 3))
    group = record.shards[0]
    assert group.config.number == 4
    assert group.config.voters[0] == new
    assert old not in group.formatted
    assert new in group.formatted
    assert group.next_rno == 5


def test_a_joint_config_ends_only_when_its_own_leader_says_so() -> None:
    """A report of an earlier config or recovery does not count."""
    record, _, _ = moved(four())
    assert refusal(record, Finish(0, 3, 0, 2)) is Reason.NOT_DONE
    assert refusal(record, Finish(0, 3, 1, 3)) is Reason.NOT_DONE
    assert refusal(record, Finish(0, 2, 0, 2)) is Reason.STALE
    assert refusal(four(), Finish(0, 1, 0, 1)) is Reason.WRONG_CONFIG


def test_a_joint_config_can_be_undone_and_not_both() -> None:
    """Abort goes back to the old side; after either end the other one is too late."""
    record, old, new = moved(four())
    undone = done(record, Abort(0, 3))
    assert undone.shards[0].config.number == 4
    assert old in undone.shards[0].config.voters
    assert new not in undone.shards[0].replicas
    assert refusal(undone, Finish(0, 3, 0, 3)) is Reason.STALE
    assert refusal(done(record, Finish(0, 3, 0, 3)), Abort(0, 3)) is Reason.STALE
    assert refusal(undone, Abort(0, 4)) is Reason.WRONG_CONFIG
    learning = done(four(), NameLearners(0, 1, (3,)))
    assert done(learning, Abort(0, 2)).shards[0].config.learners == ()


def test_a_node_that_comes_again_is_another_replica() -> None:
    """Its number is new, so that what it kept of its first time counts for nothing."""
    record, _, new = moved(four())
    record = done(record, Abort(0, 3), NameLearners(0, 4, (3,)))
    (again,) = record.shards[0].config.learners
    assert again.node == new.node
    assert again.rno == new.rno + 1
    assert refusal(record, Formatted(0, new)) is Reason.STALE


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (NameLearners(99, 1, (3,)), Reason.UNKNOWN_GROUP),
        (NameLearners(0, 2, (3,)), Reason.STALE),
        (NameLearners(0, 1, (0,)), Reason.INVALID),
        (NameLearners(0, 1, ()), Reason.INVALID),
        (NameLearners(0, 1, (3, 3)), Reason.INVALID),
        (NameLearners(0, 1, (9,)), Reason.INVALID),
        (BeginJoint(0, 1, (0, 1, 3)), Reason.INVALID),
        (BeginJoint(0, 1, (0, 2, 1)), Reason.INVALID),
        (BeginJoint(0, 2, (0, 1)), Reason.STALE),
        (Prefer(0, 1, (0, 1)), Reason.INVALID),
        (Prefer(0, 2, (0, 1, 2)), Reason.STALE),
        (MayFormat(99, Replica(0, 1)), Reason.UNKNOWN_GROUP),
        (StoreLost(99, Replica(0, 1)), Reason.UNKNOWN_GROUP),
        (StoreLost(0, Replica(3, 9)), Reason.STALE),
        (Finish(99, 1, 0, 1), Reason.UNKNOWN_GROUP),
        (Abort(99, 1), Reason.UNKNOWN_GROUP),
        (Formatted(0, Replica(3, 9)), Reason.STALE),
    ],
)
def test_changes_of_groups_that_are_refused(command: Command, reason: Reason) -> None:
    """Unknown groups and nodes, older configs, nodes that are or are not there already."""
    assert refusal(four(), command) is reason


def test_one_change_of_a_group_at_a_time() -> None:
    """While learners copy or a config is joint, nothing else begins."""
    learning = done(four(), NameLearners(0, 1, (3,)))
    (learner,) = learning.shards[0].config.learners
    rest = tuple(one.node for one in learning.shards[0].config.voters[1:])
    assert refusal(learning, NameLearners(0, 2, (3,))) is Reason.WRONG_CONFIG
    assert refusal(learning, Prefer(0, 2, (0, 1, 2))) is Reason.WRONG_CONFIG
    assert refusal(learning, BeginJoint(0, 2, rest)) is Reason.INVALID
    assert refusal(learning, BeginJoint(0, 2, (3, *rest))) is Reason.NOT_FORMATTED
    joint = done(learning, Formatted(0, learner), BeginJoint(0, 2, (3, *rest)))
    assert refusal(joint, BeginJoint(0, 3, rest)) is Reason.WRONG_CONFIG
    assert refusal(leaving(four(), 3), NameLearners(0, 1, (3,))) is Reason.WRONG_STATUS


def test_voters_can_be_put_in_another_order() -> None:
    """That is a config of its own, since candidates rank by it."""
    record = four()
    nodes = tuple(reversed([one.node for one in record.shards[0].config.voters]))
    turned = done(record, Prefer(0, 1, nodes))
    assert tuple(one.node for one in turned.shards[0].config.voters) == nodes
    assert turned.shards[0].config.number == 2
    assert unchanged(turned, Prefer(0, 2, nodes)) == 2


def test_a_header_is_made_once() -> None:
    """Who asks before making one is refused when there was one; who lost it says so, once."""
    record = four()
    group = record.shards[0]
    replica = group.config.voters[0]
    assert replica in group.formatted
    assert refusal(record, MayFormat(0, replica)) is Reason.ALREADY_FORMATTED
    unchanged(record, Formatted(0, replica))
    record = done(record, StoreLost(0, replica))
    assert record.shards[0].lost == (replica,)
    unchanged(record, StoreLost(0, replica))
    # The same node begins again under another number, and takes its own place.
    record = done(record, NameLearners(0, 1, (replica.node,)))
    (learner,) = record.shards[0].config.learners
    assert refusal(record, StoreLost(0, learner)) is Reason.NOT_FORMATTED
    unchanged(record, MayFormat(0, learner))
    nodes = tuple(one.node for one in group.config.voters)
    record = done(record, Formatted(0, learner), BeginJoint(0, 2, nodes), Finish(0, 3, 0, 3))
    assert record.shards[0].config.voters[0] == learner
    assert record.shards[0].lost == ()


# The cluster.


def test_forced_recovery_keeps_the_survivors_only() -> None:
    """Its number rises, others are forgotten, groups shrink to who is left or start empty."""
    record = formed(5, shards=32)
    recovered, answer = apply(record, ForceRecover(0, (0,)))
    recovered.check()
    assert isinstance(answer, Accepted)
    assert recovered.recovery_no == 1
    assert [member.node for member in recovered.members] == [0]
    held = sum(group.names(0) for group in record.shards)
    assert answer.value == 32 - held > 0
    for before, after in zip(record.shards, recovered.shards, strict=True):
        assert [one.node for one in after.config.voters] == [0]
        assert after.config.number == before.config.number + 1
        # Who starts empty is not taken for who was there before.
        assert (after.config.voters[0] in after.formatted) == before.names(0)
    assert refusal(recovered, ForceRecover(0, (0,))) is Reason.STALE
    assert refusal(recovered, ForceRecover(1, (4,))) is Reason.UNKNOWN_MEMBER
    assert refusal(recovered, ForceRecover(1, ())) is Reason.UNKNOWN_MEMBER


def test_a_batch_is_its_commands_one_after_the_other() -> None:
    """Together or singly, refused ones among them: the same answers, the same record."""
    record = formed(3)
    commands: list[Command] = [
        join("id-3"),
        BecomeUp(3, 1),
        Prefer(0, 9, (0, 1, 2)),
        NameLearners(0, 1, (3,)),
        NameLearners(0, 1, (3,)),
        Leave(2),
        Describe(record.epoch, 1, (), 2.0, None),
        Describe(record.epoch + 4, 1, (), 2.0, None),
    ]
    together, answers = apply_all(record, commands)
    singly, one_by_one = record, []
    for command in commands:
        singly, answer = apply(singly, command)
        one_by_one.append(answer)
    assert list(answers) == one_by_one
    assert together == singly
    assert together.epoch == record.epoch + 5
    assert [isinstance(one, Accepted) for one in answers] == [
        *(True, True, False, True, False, True, False, True)
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [({"shards": 0}, "shards=0"), ({"replicas": 0}, "replicas=0"), ({"expect": 0}, "expect=0")],
)
def test_a_cluster_that_cannot_be_founded_is_refused(values: dict[str, int], message: str) -> None:
    """The error names the value."""
    founder = MemberRecord(0, "a", 1, 1, "a")
    with pytest.raises(ValueError, match=message):
        found("c", founder, **{"shards": 4, **values})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cluster_id is empty"):
        found("", founder, shards=4)


def test_groups_are_found_by_number() -> None:
    """Shards count from 0, the root group has a name of its own, all else is nobody."""
    record = formed(3)
    assert record.group(ROOT) is record.root
    assert record.group(0) is record.shards[0]
    assert record.group(16) is record.group(-2) is None
    assert record.groups_naming(0)[:2] == (ROOT, 0)
    assert record.groups_naming(9) == ()
