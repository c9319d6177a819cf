"""What is served while the network is split: all 27 cells, written out a second time."""

import pytest

from jido_placement.policies import (
    CELLS,
    Admission,
    Column,
    Duties,
    Level,
    Outcome,
    Rule,
    Strategy,
    admitted,
    column_of,
    duties,
    outcome,
)

# Strategy, level, then read/write for: a quorum; admitted without one; not admitted.
TABLE = """
pause_minority   eventual  serve/serve  no_quorum/no_quorum            paused/paused
pause_minority   session   serve/serve  no_quorum/no_quorum            paused/paused
pause_minority   strong    serve/serve  no_quorum/no_quorum            paused/paused
continue_all     eventual  serve/serve  act/act                        act/act
continue_all     session   serve/serve  act_if_covered/act_if_covered  act_if_covered/act_if_covered
continue_all     strong    serve/serve  no_quorum/no_quorum            no_quorum/no_quorum
leader_election  eventual  serve/serve  stale/no_quorum                stale/no_quorum
leader_election  session   serve/serve  no_quorum/no_quorum            stale_if_covered/no_quorum
leader_election  strong    serve/serve  no_quorum/no_quorum            no_quorum/no_quorum
"""
ROWS = [line.split() for line in TABLE.strip().splitlines()]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}-{row[1]}")
def test_cells(row: list[str]) -> None:
    """Each cell says what becomes of a read and of a write."""
    strategy, level = Strategy(row[0]), Level(row[1])
    for column, cell in zip(Column, row[2:], strict=True):
        read, write = (Rule[rule.upper()] for rule in cell.split("/"))
        assert CELLS[strategy, level, column] == (read, write)


def test_the_table_has_all_cells_once() -> None:
    """Three strategies, three levels, three columns."""
    assert len(CELLS) == len(ROWS) * 3 == 27


@pytest.mark.parametrize(
    ("contacts", "members", "is_admitted"),
    [(1, 1, True), (1, 2, False), (2, 3, True), (2, 4, False), (3, 5, True), (2, 5, False)],
)
def test_exactly_half_is_a_minority(contacts: int, members: int, is_admitted: bool) -> None:
    """More than half of the committed members, itself counted; other strategies do not count."""

    def of(strategy: Strategy, *, root: bool = False) -> bool:
        return admitted(strategy, contacts=contacts, members=members, reaches_root_quorum=root)

    assert of(Strategy.PAUSE_MINORITY) == is_admitted
    assert of(Strategy.CONTINUE_ALL)
    assert of(Strategy.LEADER_ELECTION, root=True)
    assert not of(Strategy.LEADER_ELECTION)


def test_columns() -> None:
    """Who is not admitted serves nothing by a quorum either."""
    assert column_of(is_admitted=True, has_quorum=True) is Column.QUORUM
    assert column_of(is_admitted=True, has_quorum=False) is Column.NO_QUORUM
    for has_quorum in (True, False):
        assert column_of(is_admitted=False, has_quorum=has_quorum) is Column.NOT_ADMITTED


def result(
    strategy: str,
    level: str,
    column: Column,
    *,
    is_read: bool = True,
    has_voter: bool = True,
    covers_session: bool = True,
    accepts_stale: bool = False,
) -> Outcome:
    return outcome(
        CELLS[Strategy(strategy), Level(level), column],
        is_read=is_read,
        has_voter=has_voter,
        covers_session=covers_session,
        accepts_stale=accepts_stale,
    )


def test_with_a_quorum_everything_is_as_always() -> None:
    """Whatever the strategy, the level, and what is held here."""
    for (_, _, column), cell in CELLS.items():
        if column is Column.QUORUM:
            for is_read in (True, False):
                served = outcome(cell, is_read=is_read, has_voter=False, covers_session=False)
                assert served is Outcome.SERVE


def test_nobody_acts_without_a_copy() -> None:
    """Without a replica in reach the answer is that there is no quorum, never that it is absent."""
    for level in ("eventual", "session"):
        for is_read in (True, False):
            found = result(
                "continue_all", level, Column.NO_QUORUM, is_read=is_read, has_voter=False
            )
            assert found is Outcome.NO_QUORUM
    stale = result("leader_election", "eventual", Column.NOT_ADMITTED, has_voter=False)
    assert stale is Outcome.NO_QUORUM


def test_strong_types_wait_for_a_quorum() -> None:
    """No strategy serves them anything without one."""
    for strategy in ("continue_all", "leader_election"):
        for column in (Column.NO_QUORUM, Column.NOT_ADMITTED):
            for is_read in (True, False):
                assert result(strategy, "strong", column, is_read=is_read) is Outcome.NO_QUORUM


def test_a_session_is_served_what_it_has_seen_or_nothing() -> None:
    """An older answer is the one thing that it must not get."""
    for is_read in (True, False):
        for covers, expected in ((True, Outcome.ACT), (False, Outcome.SESSION_UNAVAILABLE)):
            found = result(
                "continue_all", "session", Column.NO_QUORUM, is_read=is_read, covers_session=covers
            )
            assert found is expected
    read = result("leader_election", "session", Column.NOT_ADMITTED, covers_session=False)
    assert read is Outcome.SESSION_UNAVAILABLE
    fresh = result("leader_election", "session", Column.NOT_ADMITTED)
    assert fresh is Outcome.STALE


def test_a_paused_side_gives_stale_reads_to_those_who_ask_for_them() -> None:
    """Only reads, only from an own copy."""
    column = Column.NOT_ADMITTED
    for level in ("eventual", "session", "strong"):
        assert result("pause_minority", level, column) is Outcome.PAUSED
        assert result("pause_minority", level, column, accepts_stale=True) is Outcome.STALE
    writing = result("pause_minority", "strong", column, accepts_stale=True, is_read=False)
    assert writing is Outcome.PAUSED
    absent = result("pause_minority", "strong", column, accepts_stale=True, has_voter=False)
    assert absent is Outcome.PAUSED


def test_a_pausing_node_gives_up_its_leads_and_votes_on() -> None:
    """Otherwise it would keep the lead of what others have to take over."""
    assert duties(is_admitted=True) == Duties(serves=True, may_lead=True, votes=True)
    assert duties(is_admitted=False) == Duties(serves=False, may_lead=False, votes=True)


def test_admission_waits_until_it_is_stable() -> None:
    """A node starts paused; a change counts when it has lasted, and only then."""
    admission = Admission(1_000)
    assert not admission.is_admitted
    assert not admission.observe(is_admitted=True, now_ms=0)
    assert not admission.observe(is_admitted=True, now_ms=999)
    assert admission.observe(is_admitted=True, now_ms=1_000)
    assert admission.is_admitted
    assert not admission.observe(is_admitted=False, now_ms=2_000)
    assert not admission.observe(is_admitted=True, now_ms=2_500)
    assert not admission.observe(is_admitted=False, now_ms=3_400)
    assert admission.is_admitted
    assert admission.observe(is_admitted=False, now_ms=4_400)
    assert not admission.is_admitted
