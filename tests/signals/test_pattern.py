"""What patterns match, against a matcher too simple to be wrong, and which is more specific."""

import pickle
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jido_cluster.errors import ConfigError
from jido_cluster.signals import Pattern
from jido_cluster.signals.pattern import MAX_TYPE_LENGTH, check_type

SEGMENT = st.sampled_from(["a", "b", "ab", "a-b", "x_1"])
TYPE = st.lists(SEGMENT, min_size=1, max_size=6).map(".".join)


def without_doubles(segments: list[str]) -> str:
    """A pattern has no `**` after `**`."""
    kept = [s for n, s in enumerate(segments) if not (s == "**" and n and segments[n - 1] == "**")]
    return ".".join(kept)


PATTERN = st.lists(SEGMENT | st.sampled_from(["*", "**"]), min_size=1, max_size=6).map(
    without_doubles
)


def obviously_matches(pattern: list[str], type_: list[str]) -> bool:
    """The definition: `*` is one segment, `**` any number, all else itself."""
    if not pattern:
        return not type_
    first, *rest = pattern
    if first == "**":
        return any(obviously_matches(rest, type_[n:]) for n in range(len(type_) + 1))
    if not type_:
        return False
    return first in ("*", type_[0]) and obviously_matches(rest, type_[1:])


@given(PATTERN, TYPE)
def test_matching_is_as_defined(pattern: str, type_: str) -> None:
    """For any pattern and type."""
    expected = obviously_matches(pattern.split("."), type_.split("."))
    assert Pattern(pattern).matches(type_) is expected


@given(st.data(), TYPE)
def test_a_pattern_made_of_a_type_matches_it(data: st.DataObject, type_: str) -> None:
    """With any segments replaced by `*`, and any run of them by `**`."""
    segments = type_.split(".")
    for n in range(len(segments)):
        if data.draw(st.booleans()):
            segments[n] = "*"
    begin = data.draw(st.integers(0, len(segments)))
    end = data.draw(st.integers(begin, len(segments)))
    assert Pattern(".".join([*segments[:begin], "**", *segments[end:]])).matches(type_)


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("a.b", ["a.b"], ["a", "a.b.c", "ab", "a.c", "A.b"]),
        ("a.*", ["a.b", "a.ab"], ["a", "a.b.c", "b.a"]),
        ("*", ["a"], ["a.b"]),
        ("a.**", ["a", "a.b", "a.b.c"], ["ab", "b", "b.a"]),
        ("**", ["a", "a.b", "a.b.c"], []),
        ("**.c", ["c", "a.c", "a.b.c"], ["c.a", "ac", "a.bc"]),
        ("a.**.c", ["a.c", "a.b.c", "a.b.b.c"], ["a", "c", "a.cc", "ac"]),
        ("**.b.**", ["b", "a.b", "b.c", "a.b.c"], ["a", "ab", "a.bb.c"]),
        ("*.**", ["a", "a.b"], []),
        ("**.*", ["a", "a.b"], []),
        ("a.*.**", ["a.b", "a.b.c"], ["a"]),
    ],
)
def test_wildcards(pattern: str, matching: list[str], others: list[str]) -> None:
    """`*` is exactly one segment, `**` zero or more, and the whole type must match."""
    one = Pattern(pattern)
    assert [type_ for type_ in matching if not one.matches(type_)] == []
    assert [type_ for type_ in others if one.matches(type_)] == []


def test_a_dot_is_a_dot() -> None:
    """Characters that mean something in a regular expression mean themselves."""
    assert not Pattern("a.b").matches("axb")
    assert not Pattern("a").matches("")


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "a b",
        "a.b*",
        "***",
        "a.***",
        "*a",
        "a/b",
        "ä",
        "a\n",
        "**.**",
        "a.**.**.b",
        "a" * (MAX_TYPE_LENGTH + 1),
    ],
)
def test_malformed_patterns_are_refused(text: str) -> None:
    """With the text."""
    with pytest.raises(ConfigError):
        Pattern(text)


@pytest.mark.parametrize("value", [None, 5, b"a", ["a"]])
def test_what_is_no_text_is_refused(value: object) -> None:
    """With the value."""
    with pytest.raises(ConfigError):
        Pattern(value)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        check_type(value)


def test_the_longest_type_is_a_type() -> None:
    """256 characters."""
    text = "a" * MAX_TYPE_LENGTH
    assert Pattern(text).matches(text)
    assert check_type(text) == text


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fails when the block takes longer, also when it is stuck in the matcher."""

    def stop(*_: object) -> None:
        raise AssertionError(f"it took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_no_type_takes_long_to_match() -> None:
    """A caller chooses the type; many `**` in a pattern must not let it stop the host."""
    nasty = Pattern(".".join(["**", "a"] * 12))
    with within(2.0):
        assert nasty.matches(".".join(["a"] * 128))
        assert not nasty.matches(".".join(["a"] * 127 + ["b"]))


def test_a_literal_type_is_no_pattern() -> None:
    """A signal has one type."""
    assert check_type("a.b") == "a.b"
    for text in ("a.*", "**", "*"):
        with pytest.raises(ConfigError, match="is a pattern"):
            check_type(text)
    assert Pattern("a.b").is_exact
    assert not Pattern("a.*").is_exact


def test_specificity_goes_from_the_left() -> None:
    """A literal beats `*`, `*` beats `**`; a longer pattern beats its own prefix."""
    falling = [
        "a.b.c",
        "a.b.*",
        "a.b.**",
        "a.b",
        "a.*.c",
        "a.*",
        "a.**.c",
        "a.**",
        "*.b",
        "*",
        "**",
    ]
    patterns = [Pattern(text) for text in falling]
    ranked = sorted(patterns, key=lambda one: one.specificity, reverse=True)
    assert [one.text for one in ranked] == falling


def test_patterns_pickle() -> None:
    """They arrive as they were."""
    copy = pickle.loads(pickle.dumps(Pattern("a.*")))
    assert (copy.text, copy.matches("a.b"), copy.is_exact) == ("a.*", True, False)
    assert repr(copy) == "Pattern('a.*')"
