"""Healing goes step by step, as often as needed, and starts over when the network splits again."""

from hypothesis import given
from hypothesis import strategies as st

from jido_placement.healing import STEPS, TRANSITIONS, Do, Effect, Event, Healing, Noted, Stage


def healing() -> Healing:
    return Healing(stable_ms=1_000, retry_ms=500)


def steps(effects: tuple[Effect, ...]) -> list[Stage]:
    return [one.step for one in effects if isinstance(one, Do)]


def notes(effects: tuple[Effect, ...]) -> list[tuple[Stage, Stage]]:
    return [(one.before, one.after) for one in effects if isinstance(one, Noted)]


def test_one_split_from_end_to_end() -> None:
    """All steps in order, each asked for when the one before is done; rebalancing comes last."""
    one = healing()
    assert one.may_rebalance
    assert one.next_at_ms is None
    assert notes(one.observe(is_whole=False, now_ms=0)) == [(Stage.WHOLE, Stage.SPLIT)]
    assert not one.may_rebalance
    one.observe(is_whole=True, now_ms=5_000)
    assert one.tick(5_999) == ()
    asked = steps(one.tick(6_000))
    now_ms = 6_000
    while one.stage in STEPS:
        now_ms += 100
        asked += steps(one.done(1, one.stage, now_ms))
    assert asked == list(STEPS)
    assert one.stage is Stage.RESTING
    assert not one.may_rebalance
    assert one.next_at_ms == now_ms + 2_000
    (noted,) = one.tick(now_ms + 2_000)
    assert noted == Noted(1, Stage.RESTING, Stage.WHOLE, now_ms + 2_000)
    assert one.may_rebalance


def test_a_step_is_asked_for_again_until_it_is_done() -> None:
    """Each retry asks for the same; what is done twice counts once."""
    one = healing()
    one.observe(is_whole=False, now_ms=0)
    one.observe(is_whole=True, now_ms=0)
    one.tick(1_000)
    assert one.tick(1_499) == ()
    assert one.tick(1_500) == one.tick(2_000) == (Do(1, Stage.RECORD),)
    assert steps(one.done(1, Stage.RECORD, 2_100)) == [Stage.LEADERS]
    assert one.done(1, Stage.RECORD, 2_200) == ()
    assert one.observe(is_whole=True, now_ms=2_300) == ()
    assert one.stage is Stage.LEADERS


def test_a_split_in_the_middle_starts_over_within_its_episode() -> None:
    """What is done late for an earlier episode does not count for a later one."""
    one = healing()
    one.observe(is_whole=False, now_ms=0)
    one.observe(is_whole=True, now_ms=0)
    one.tick(1_000)
    assert notes(one.observe(is_whole=False, now_ms=1_100)) == [(Stage.RECORD, Stage.SPLIT)]
    assert one.done(1, Stage.RECORD, 1_200) == ()
    assert one.episode == 1
    one.observe(is_whole=True, now_ms=2_000)
    one.tick(3_000)
    assert one.done(0, Stage.RECORD, 3_100) == ()
    assert one.stage is Stage.RECORD


@given(st.lists(st.tuples(st.sampled_from("owdt"), st.integers(0, 1_500)), max_size=60))
def test_whatever_happens_healing_ends_once_it_is_quiet(events: list[tuple[str, int]]) -> None:
    """Every transition is one of the table, and from any state contact leads back to whole."""
    one = healing()
    now_ms = 0
    effects: list[Effect] = []
    for kind, passed_ms in events:
        now_ms += passed_ms
        if kind in "ow":
            effects += one.observe(is_whole=kind == "w", now_ms=now_ms)
        elif kind == "d":
            effects += one.done(one.episode, one.stage, now_ms)
        else:
            effects += one.tick(now_ms)
    for before, after in notes(tuple(effects)):
        assert after in {TRANSITIONS.get((before, event)) for event in Event}
    for _ in range(20):
        now_ms += 2_000
        one.observe(is_whole=True, now_ms=now_ms)
        one.tick(now_ms)
        one.done(one.episode, one.stage, now_ms)
    assert one.stage is Stage.WHOLE
