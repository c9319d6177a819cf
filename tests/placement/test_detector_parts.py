"""The parts of the detector, one by one."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jido_placement.awareness import Awareness
from jido_placement.gossip import OVERHEAD_BYTES, Spread, retransmit_limit
from jido_placement.stream import Stream
from jido_placement.suspicion import Suspicion, suspicion_span_ms
from jido_placement.timings import Timings


def test_stream_is_the_published_generator() -> None:
    """The first numbers of SplitMix64 for seed 1234567, as published with it."""
    stream = Stream(1234567)
    assert [stream.bits() for _ in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


@given(st.integers(), st.integers(1, 1_000))
def test_stream_stays_in_range_and_repeats(seed: int, limit: int) -> None:
    """Equal seeds give equal numbers below the limit."""
    one, other = Stream(seed), Stream(seed)
    numbers = [one.below(limit) for _ in range(20)]
    assert numbers == [other.below(limit) for _ in range(20)]
    assert all(0 <= number < limit for number in numbers)


def test_stream_shuffles_evenly() -> None:
    """Each order of three things comes about as often as any other."""
    stream, seen = Stream(1), Counter[tuple[int, ...]]()
    for _ in range(6_000):
        items = [1, 2, 3]
        stream.shuffle(items)
        seen[tuple(items)] += 1
    assert len(seen) == 6
    assert all(850 < count < 1_150 for count in seen.values())


def test_awareness_is_bounded_both_ways() -> None:
    """Doubt grows to its limit, shrinks to none, and stretches spans in proportion."""
    awareness = Awareness(7)
    assert awareness.stretch(500) == 500
    awareness.add(100)
    assert awareness.score == 7
    assert awareness.stretch(500) == 4_000
    awareness.add(-100)
    assert awareness.score == 0


@pytest.mark.parametrize(
    ("confirmations", "span_ms"), [(0, 30_000), (1, 17_941), (3, 5_882), (4, 2_000), (9, 2_000)]
)
def test_suspicion_shrinks_with_the_logarithm(confirmations: int, span_ms: int) -> None:
    """From the longest span to the shortest, by log(c + 1) / log(k + 1); computed by hand."""
    assert suspicion_span_ms(2_000, 30_000, confirmations, 4) == span_ms


@given(st.integers(1, 10_000), st.integers(0, 50_000), st.integers(0, 10), st.integers(0, 10))
def test_suspicion_spans_stay_between_their_bounds(
    min_ms: int, extra_ms: int, confirmations: int, expected: int
) -> None:
    """More confirmations never lengthen a suspicion."""
    max_ms = min_ms + extra_ms
    span = suspicion_span_ms(min_ms, max_ms, confirmations, expected)
    assert min_ms <= span <= max_ms
    assert suspicion_span_ms(min_ms, max_ms, confirmations + 1, expected) <= span


def test_suspicion_counts_each_accuser_once_and_no_more_than_expected() -> None:
    """Repeating an accusation confirms nothing; enough is enough."""
    suspicion = Suspicion(["a"], 1_000, min_ms=2_000, max_ms=10_000, expected=2)
    assert suspicion.ends_at_ms == 11_000
    assert not suspicion.confirm("a")
    assert suspicion.confirm("b")
    assert suspicion.confirm("c")
    assert suspicion.ends_at_ms == 3_000
    assert not suspicion.confirm("d")
    assert suspicion.accusers == ["a", "b", "c"]
    assert (suspicion.is_old(2_999), suspicion.is_old(3_000)) == (False, True)


@pytest.mark.parametrize(("nodes", "limit"), [(1, 4), (9, 4), (10, 8), (99, 8), (1_000, 16)])
def test_news_is_sent_a_logarithmic_number_of_times(nodes: int, limit: int) -> None:
    """Four times for up to nine nodes, four more for each further digit."""
    assert retransmit_limit(4, nodes) == limit


def test_spread_sends_each_piece_so_often_and_the_newest_of_a_subject() -> None:
    """Least sent first, among equals the latest; a newer piece takes the older one's place."""
    spread: Spread[str] = Spread()
    spread.put("a", "a1", 0)
    spread.put("b", "b1", 0)
    one = OVERHEAD_BYTES
    assert spread.take(one, 2) == ("b1",)
    assert spread.take(one, 2) == ("a1",)
    spread.put("a", "a2", 0)
    assert spread.take(3 * one, 2) == ("a2", "b1")
    assert spread.take(3 * one, 2) == ("a2",)
    assert len(spread) == 0
    assert spread.take(one, 2) == ()


def test_spread_stays_within_its_budget() -> None:
    """What does not fit waits; nothing is cut."""
    spread: Spread[str] = Spread()
    for name in "abc":
        spread.put(name, name, 100)
    assert len(spread.take(2 * (100 + OVERHEAD_BYTES) + 50, 9)) == 2
    spread.drop("a")
    spread.drop("never there")
    assert len(spread) == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"probe_interval_ms": 0}, "probe_interval_ms=0: give at least 1"),
        ({"indirect_probes": -1}, "indirect_probes=-1: give at least 0"),
        ({"probe_timeout_ms": 600}, "at most half of probe_interval_ms"),
        ({"max_message_bytes": 2_000}, "4 x max_payload_bytes"),
    ],
)
def test_timings_that_contradict_each_other_are_refused(
    values: dict[str, int], message: str
) -> None:
    """The error names the field, its value and the rule."""
    with pytest.raises(ValueError, match=message):
        Timings(**values)


def test_profiles_are_sound_and_ordered() -> None:
    """The three profiles exist, and are the slower the farther apart the nodes are."""
    profiles = [Timings.local(), Timings.lan(), Timings.wan()]
    intervals = [one.probe_interval_ms for one in profiles]
    assert intervals == sorted(intervals)
    assert Timings.lan() == Timings()
