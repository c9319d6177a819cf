"""Timers as data: each occurrence once, on its grid, and over when it is over on either side."""

from hypothesis import given
from hypothesis import strategies as st

from jido_state.dots import NOTHING_SEEN, Acting, Dot, VersionVector
from jido_state.timers import NO_TIMERS, Timer, Timers, TimersFull, next_on_grid
from jido_state.versions import Ballot
from tests.state.values import DOTS

B1 = Ballot(0, 1, 1, 0)
FIRST = B1.version(1)
APART = Acting(2, 1, 1)


def timer(key: str, dot: Dot = FIRST, due_ms: int = 100, occurrence: int = 1) -> Timer:
    return Timer(key, dot, due_ms, occurrence, b"", b"p")


def timers(*given: Timer) -> Timers:
    made = NO_TIMERS
    for one in given:
        changed = made.set(one)
        assert isinstance(changed, Timers)
        made = changed
    return made


def test_a_timer_is_due_when_its_time_has_come() -> None:
    """The earliest first, those of one time by key; a replaced or cleared one is not."""
    made = timers(timer("b"), timer("a"), timer("c", due_ms=50), timer("d", due_ms=200))
    assert made.next_due_ms() == 50
    assert [one.key for one in made.due(100)] == ["c", "a", "b"]
    assert made.due(49) == []
    assert [one.key for one in made.clear("c").due(100)] == ["a", "b"]
    changed = made.set(timer("c", B1.version(2), due_ms=300))
    assert isinstance(changed, Timers)
    assert [one.key for one in changed.due(100)] == ["a", "b"]
    assert made.clear("unknown") == made
    assert NO_TIMERS.next_due_ms() is None


def test_a_firing_counts_once() -> None:
    """The commit moves or removes the timer; the same firing again finds it gone."""
    made = timers(timer("a"))
    fired = made.due(100)[0]
    again = made.fire(fired, 200)
    assert again is not None
    assert again.get("a") == timer("a", due_ms=200, occurrence=2)
    assert again.fire(fired, 200) is None
    assert made.fire(fired, None) == NO_TIMERS
    assert NO_TIMERS.fire(fired, None) is None
    replaced = timers(timer("a"), timer("a", B1.version(2)))
    assert replaced.fire(fired, 200) is None


def test_each_firing_has_its_own_op_id() -> None:
    """By agent, key, the turn that set it, and occurrence; equal whoever fires it."""
    ids = [
        timer("a").op_id("x"),
        timer("a", occurrence=2).op_id("x"),
        timer("a", B1.version(2)).op_id("x"),
        timer("b").op_id("x"),
        timer("a").op_id("y"),
    ]
    assert len(set(ids)) == len(ids)
    assert ids[0] == timer("a", due_ms=999).op_id("x")


@given(st.integers(0, 10**6), st.integers(1, 10**4), st.integers(0, 10**7))
def test_the_next_time_is_on_the_grid(due_ms: int, every_ms: int, now_ms: int) -> None:
    """After the last one and after now, and the first such: ticks that were missed fire once."""
    following = next_on_grid(due_ms, every_ms, now_ms)
    assert (following - due_ms) % every_ms == 0
    assert following > due_ms
    assert following > now_ms
    assert following - every_ms <= max(due_ms, now_ms)


def test_timers_are_bounded_in_number_and_bytes() -> None:
    """One too many, or too large, is refused and changes nothing; replacing always fits."""
    full = timers(*(timer(f"t{number}") for number in range(1024)))
    refused = full.set(timer("new"))
    assert isinstance(refused, TimersFull)
    assert "1024 timers" in refused.reason
    assert isinstance(full.set(timer("t5", due_ms=7)), Timers)
    large = NO_TIMERS.set(Timer("a", B1.version(1), 0, 1, b"x" * 40_000, b"y" * 40_000))
    assert isinstance(large, TimersFull)
    assert "80000 bytes" in large.reason


def test_done_on_one_side_is_done() -> None:
    """A timer that one copy lacks is over if it has seen the turn that set it, otherwise new."""
    seen = NOTHING_SEEN.add(B1.version(2))
    both = timers(timer("kept"), timer("fired"), timer("cleared"))
    here = both.clear("fired")
    there = timers(timer("kept"), timer("fired"), timer("new", APART.dot(1)))
    joined = here.join(seen.add(B1.version(3)), there, seen.add(APART.dot(1)))
    assert sorted(joined.by_key) == ["kept", "new"]
    orphan = timers(timer("orphan", B1.version(9)))
    joined = here.join(seen, orphan, seen.add(B1.version(9)))
    assert "orphan" in joined.by_key


def test_of_two_settings_the_later_time_counts() -> None:
    """Set on both sides: the one due later fires, and then both are over."""
    seen = NOTHING_SEEN.add(B1.version(1))
    mine = timers(timer("a", B1.version(2), due_ms=10))
    theirs = timers(timer("a", APART.dot(1), due_ms=20))
    joined = mine.join(seen.add(B1.version(2)), theirs, seen.add(APART.dot(1)))
    assert joined.due(15) == []
    due = joined.due(20)
    assert due == [timer("a", APART.dot(1), due_ms=20)]
    assert joined.fire(due[0], None) == NO_TIMERS
    again = joined.fire(due[0], 40)
    assert again == timers(timer("a", APART.dot(1), 40, 2))
    # Where the later one is over, the other one was never replaced.
    both = seen.add(B1.version(2)).add(APART.dot(1))
    left = joined.join(both, NO_TIMERS, seen.add(APART.dot(1)))
    assert left == mine


def test_of_one_timer_the_later_occurrence_counts() -> None:
    """A copy that has not heard of a firing does not bring it back."""
    seen = NOTHING_SEEN.add(B1.version(1))
    fired = timers(timer("a", due_ms=200, occurrence=2))
    assert timers(timer("a")).join(seen, fired, seen) == fired
    assert fired.join(seen, timers(timer("a")), seen) == fired


@st.composite
def copies(draw: st.DrawFn) -> tuple[Timers, VersionVector]:
    seen, made = NOTHING_SEEN, NO_TIMERS
    for dot in draw(st.lists(DOTS, max_size=5, unique=True)):
        seen = seen.add(dot)
        if draw(st.booleans()):
            # One turn sets a timer of one key to one time, on every copy.
            changed = made.set(timer("ab"[sum(dot) % 2], dot, sum(dot)))
            assert isinstance(changed, Timers)
            made = changed
    return made, seen


@given(copies(), copies(), copies())
def test_joining_copies_commutes_and_associates(
    one: tuple[Timers, VersionVector],
    two: tuple[Timers, VersionVector],
    three: tuple[Timers, VersionVector],
) -> None:
    """In whatever order copies come together, the same timers are left."""

    def join(
        left: tuple[Timers, VersionVector], right: tuple[Timers, VersionVector]
    ) -> tuple[Timers, VersionVector]:
        return left[0].join(left[1], right[0], right[1]), left[1].join(right[1])

    assert join(one, two) == join(two, one)
    assert join(join(one, two), three) == join(one, join(two, three))
    assert join(one, one) == one
    joined = join(join(one, two), three)[0]
    assert Timers.from_data(joined.to_data()) == joined
