"""The retry decision, row by row, and the bounds of the pauses."""

import asyncio
import subprocess
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jido_cluster.errors import (
    ActionTimeoutError,
    ConfigError,
    ExecutionError,
    InvalidInputError,
    NoQuorumError,
    OutcomeUnknownError,
    OverloadedError,
    RunCancelledError,
)
from jido_cluster.exec.options import ResolvedOptions
from jido_cluster.exec.retry import delay_before, is_retryable


def _validation_error() -> pydantic.ValidationError:
    try:
        pydantic.TypeAdapter(int).validate_python("x")
    except pydantic.ValidationError as error:
        return error
    raise AssertionError


class FlakyError(Exception):
    """Nobody knows this one."""


TABLE: list[tuple[BaseException, tuple[type[Exception], ...], bool]] = [
    # An error of the tree says so itself, whatever else it is.
    (ExecutionError("x"), (), False),
    (ExecutionError("x", retryable=True), (), True),
    (OverloadedError("x"), (), True),
    (NoQuorumError("x", retryable=False), (), False),
    (ActionTimeoutError("x"), (), True),
    (OutcomeUnknownError("a TimeoutError too"), (TimeoutError,), False),
    (InvalidInputError("a ValueError too"), (ValueError,), False),
    (ConfigError("x"), (), False),
    (RunCancelledError("x"), (), False),
    # Never, even when its base was declared.
    (_validation_error(), (ValueError,), False),
    (asyncio.CancelledError(), (), False),
    # Declared.
    (FlakyError(), (FlakyError,), True),
    (KeyError(), (LookupError,), True),
    # Transient by nature.
    (ConnectionResetError(), (), True),
    (ConnectionRefusedError(), (), True),
    (TimeoutError(), (), True),
    (InterruptedError(), (), True),
    # A group: as all its members.
    (ExceptionGroup("g", [ConnectionError(), TimeoutError()]), (), True),
    (ExceptionGroup("g", [ConnectionError(), KeyError()]), (), False),
    (ExceptionGroup("g", [ConnectionError(), KeyError()]), (KeyError,), True),
    # Bugs and lasting conditions.
    (FlakyError(), (), False),
    (ValueError(), (), False),
    (FileNotFoundError(), (), False),
    (PermissionError(), (), False),
    (subprocess.CalledProcessError(1, "x"), (), False),
    (MemoryError(), (), False),
    (SystemExit(), (), False),
]


def named(one: object) -> str:
    """One line of an id: mutmut selects tests by their ids, and a line break ends one."""
    return repr(one).partition("\n")[0][:40]


@pytest.mark.parametrize(("error", "retry_on", "verdict"), TABLE, ids=named)
def test_the_table(
    error: BaseException, retry_on: tuple[type[Exception], ...], verdict: bool
) -> None:
    """Each row decides as written."""
    assert is_retryable(error, retry_on) is verdict


_seconds = st.floats(0, 1e6)
_options = st.builds(
    ResolvedOptions,
    retry_delay=_seconds,
    retry_backoff=st.floats(1, 1e3),
    retry_jitter=st.floats(0, 1),
    retry_max_delay=_seconds,
)


@given(
    _options,
    st.integers(0, 60),
    st.floats(0, 1, exclude_max=True),
    st.none() | st.floats(0, 1e7),
)
def test_pauses_stay_within_their_bounds(
    options: ResolvedOptions, retry: int, luck: float, retry_after: float | None
) -> None:
    """`min(max_delay, delay * backoff**n) * (1 ± jitter)`, for all settings and errors."""
    ideal = options.retry_delay * options.retry_backoff**retry
    error = None if retry_after is None else OverloadedError("full", retry_after=retry_after)
    ideal = min(options.retry_max_delay, max(ideal, retry_after or 0.0))
    spread = ideal * options.retry_jitter * (1 + 1e-9)
    delay = delay_before(retry, options, lambda: luck, error)
    assert delay >= 0
    assert ideal - spread <= delay <= ideal + spread


@pytest.mark.parametrize(("first", "delay"), [(1.0, 30.0), (0.0, 0.0)])
def test_a_pause_past_all_numbers_is_the_longest(first: float, delay: float) -> None:
    """Two to the five-thousandth is no float; nothing times it is still nothing."""
    options = ResolvedOptions(retry_delay=first)
    assert delay_before(5000, options, lambda: 0.5) == delay


def test_the_documented_progression() -> None:
    """Seconds 1, 2, 4, 8, 16, 30, 30 with no luck either way."""
    options = ResolvedOptions()
    assert [delay_before(n, options, lambda: 0.5) for n in range(7)] == [1, 2, 4, 8, 16, 30, 30]


@pytest.mark.parametrize(("luck", "delay"), [(0.0, 0.9), (0.5, 1.0), (0.999999, 1.1)])
def test_jitter_goes_both_ways(luck: float, delay: float) -> None:
    """Ten percent less at one end of chance, ten more at the other."""
    assert delay_before(0, ResolvedOptions(), lambda: luck) == pytest.approx(delay, rel=1e-4)


@pytest.mark.parametrize(
    ("retry_after", "delay"), [(None, 1.0), (0.5, 1.0), (5.0, 5.0), (900.0, 30.0)]
)
def test_an_error_that_names_its_time_is_believed(retry_after: float | None, delay: float) -> None:
    """The longer of the two counts, up to the limit."""
    error: Any = OverloadedError("full", retry_after=retry_after)
    assert delay_before(0, ResolvedOptions(), lambda: 0.5, error) == delay
