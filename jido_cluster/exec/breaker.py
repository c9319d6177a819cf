"""Circuit breakers: pause the calls of something that keeps failing, so that it can recover.

Theory. A breaker is *closed* and lets everything pass, until ``failures`` attempts in a row have
failed. Then it is *open* and refuses at once (`CircuitOpenError`) for ``reset`` seconds. Then it is
*half-open*: one attempt passes as a probe, the others are refused on; its success closes the
breaker, its failure opens it again.

Source. Michael Nygard, Release It!; the states and the counting are pybreaker's.

Departures. pybreaker wraps the call: under a lock, which would make calls wait for each other, and
not across an await, so that each coroutine would count as a success. Here an attempt is admitted by
the state, runs, and its known outcome is recorded afterwards, if the state is still the one that
admitted it. Times are monotonic, where pybreaker's are the wall clock's. One probe runs at a time.

What counts is trouble, not refusal. A failure: what is retryable, what is late, and an exception
that the action did not raise on purpose. Neither success nor failure: input that does not validate,
an error of this library that is not retryable (the service answered, and said no), cancellation,
and an attempt that was refused before it began, by this breaker, by another one, or by a full pool.
"""

import contextlib
import math
import os
import threading
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, Literal, cast

from jido_cluster import telemetry
from jido_cluster.errors import CircuitOpenError, ConfigError, JidoError
from jido_cluster.exec.failures import has_started, never_started
from jido_cluster.ids import check_id

__all__ = ["Breaker", "BreakerState", "BreakerStatistics", "Permit"]

BreakerState = Literal["closed", "open", "half-open"]

CHANGE: Final = "jido.exec.breaker"
MAX_BREAKERS: Final = 10_000  # names of one process; a breaker is for a service, not for a request
PROBE_WAIT: Final = 1.0  # seconds; a probe's outcome is usually known by then


@dataclass(frozen=True, slots=True)
class BreakerStatistics:
    """A breaker at one moment; ``total_...`` count since its name was first used.

    Attributes:
        failures: Failures in a row while closed.
        running: Attempts admitted that have not ended.
        retry_after: Seconds until an open breaker admits a probe; 0.0 otherwise.
        total_opened: How often it went from another state to open.
    """

    state: BreakerState
    failures: int
    running: int
    retry_after: float
    total_succeeded: int
    total_failed: int
    total_refused: int
    total_opened: int


class _Circuit:
    """What a process knows of one name. Only touched under the lock.

    ``period`` numbers the times between two changes of state: an attempt admitted in an earlier one
    says nothing about this one.
    """

    def __init__(self, settings: tuple[int, float]) -> None:
        # With the first breaker, not with the package: it imports Redis' client, and that one
        # OpenTelemetry, where they are installed, which takes each process a quarter of a second.
        import pybreaker

        self.settings = settings
        # Its own timer, by the wall clock, is never asked: it is never called while open.
        self.machine: Any = pybreaker.CircuitBreaker(throw_new_error_on_trip=False)
        self.period = 0
        self.opened_at = 0.0
        self.probe: Permit | None = None
        self.probe_at = 0.0
        self.running = 0
        self.succeeded = 0
        self.failed = 0
        self.refused = 0
        self.opened = 0

    @property
    def state(self) -> BreakerState:
        return cast("BreakerState", self.machine.current_state)

    def is_as_new(self) -> bool:
        return self.state == "closed" and not (self.machine.fail_counter or self.running)

    def record(self, *, is_success: bool) -> None:
        """The machine's own transition for a call that has ended so."""
        with contextlib.suppress(_FailedError):
            self.machine.call(_succeed if is_success else _fail)
        if is_success:
            self.succeeded += 1
        else:
            self.failed += 1


class _FailedError(Exception):
    """Stands for any failure when the machine is told."""


def _succeed() -> None:
    pass


def _fail() -> None:
    raise _FailedError


_lock = threading.Lock()
_circuits: dict[str, _Circuit] = {}


class Breaker:
    """A circuit breaker for runs: ``run(action, params, breaker=Breaker("payments"))``.

    Breakers of one name are one, in one process; each process has its own. It guards every attempt
    of a run. Any thread and any loop may use it.

    Attributes:
        name: What it guards: a service, say. `^[A-Za-z0-9._:-]{1,128}$`.
        failures: Failed attempts in a row that open it, >= 1. More of them forgive a bad moment,
            fewer spare the service sooner.
        reset: Seconds from opening to the probe, > 0. Longer leaves the service alone, shorter
            notices its recovery sooner.
    """

    __slots__ = ("failures", "name", "reset")

    def __init__(self, name: str, *, failures: int = 5, reset: float = 30.0) -> None:
        """Checks, and registers the name.

        Raises:
            ConfigError: A value is ill, or another breaker here has the name and other settings.
        """
        _check(name, failures, reset)
        self.name = name
        self.failures = failures
        self.reset = float(reset)
        with _lock:
            known = self._circuit().settings
        if known != (self.failures, self.reset):
            raise ConfigError(
                f"breaker {name!r} exists with failures={known[0]}, reset={known[1]:g}: define it "
                f"once and share it, or choose another name",
                name=name,
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Breaker) and self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash(self._fields())

    def __repr__(self) -> str:
        return f"Breaker({self.name!r}, failures={self.failures}, reset={self.reset:g})"

    def __reduce__(self) -> tuple[Any, ...]:
        return breaker_of, self._fields()

    @property
    def state(self) -> BreakerState:
        """The state as of now; an open breaker stays so until an attempt comes to be its probe."""
        return self.statistics().state

    def statistics(self) -> BreakerStatistics:
        """State and counts as they are now."""
        with _lock:
            circuit = self._circuit()
            left = circuit.opened_at + self.reset - monotonic()
            return BreakerStatistics(
                state=circuit.state,
                failures=circuit.machine.fail_counter,
                running=circuit.running,
                retry_after=max(0.0, left) if circuit.state == "open" else 0.0,
                total_succeeded=circuit.succeeded,
                total_failed=circuit.failed,
                total_refused=circuit.refused,
                total_opened=circuit.opened,
            )

    def admit(self) -> "Permit":
        """Lets one attempt begin; its outcome has to be told to the permit.

        Raises:
            CircuitOpenError: None may begin now; ``retry_after`` says when to ask again.
        """
        with _lock:
            circuit = self._circuit()
            before = circuit.state
            now = monotonic()
            wait = self._wait(circuit, now)
            if wait > 0:
                circuit.refused += 1
                raise never_started(
                    CircuitOpenError(
                        f"breaker {self.name!r} is {before}: not tried for {wait:.3g} s",
                        retry_after=wait,
                        breaker=self.name,
                    )
                )
            if before == "open":
                circuit.machine.half_open()
                circuit.period += 1
            circuit.running += 1
            permit = Permit(self, circuit, circuit.period)
            if before != "closed":
                circuit.probe, circuit.probe_at = permit, now
        self._tell(circuit, before, "half-open" if before == "open" else before)
        return permit

    def _wait(self, circuit: _Circuit, now: float) -> float:
        """Seconds until an attempt may begin; none when it is not positive."""
        if circuit.state == "open":
            return circuit.opened_at + self.reset - now
        if circuit.probe is None:
            return 0.0
        # A probe without a time limit may never end: it is given up after as long as a reset.
        return min(PROBE_WAIT, circuit.probe_at + self.reset - now)

    def _end(self, permit: "Permit", *, is_success: bool | None) -> None:
        circuit = permit._circuit
        with _lock:
            circuit.running -= 1
            if permit._period != circuit.period:
                return
            if circuit.probe is permit:
                circuit.probe = None
            elif circuit.state == "half-open":
                return  # a probe that was given up
            if is_success is None:
                return
            before = circuit.state
            circuit.machine.fail_max = self.failures
            circuit.record(is_success=is_success)
            after = circuit.state
            if after != before:
                circuit.period += 1
            if after == "open":
                circuit.opened_at = monotonic()
                circuit.opened += 1
        self._tell(circuit, before, after)

    def _tell(self, circuit: _Circuit, before: BreakerState, after: BreakerState) -> None:
        if before != after and telemetry.LISTENERS:
            metadata = {"breaker": self.name, "state": after, "previous": before}
            telemetry.execute(CHANGE, {"opened": circuit.opened}, metadata)

    def _circuit(self) -> _Circuit:
        """The state of this name; under the lock."""
        circuit = _circuits.get(self.name)
        if circuit is None:
            if len(_circuits) >= MAX_BREAKERS:
                _forget_unused()
            circuit = _circuits[self.name] = _Circuit((self.failures, self.reset))
        return circuit

    def _fields(self) -> tuple[str, int, float]:
        return self.name, self.failures, self.reset


class Permit:
    """The right to make one attempt, given by `Breaker.admit`; told once how the attempt ended."""

    __slots__ = ("_breaker", "_circuit", "_period")

    def __init__(self, breaker: Breaker, circuit: _Circuit, period: int) -> None:
        self._breaker = breaker
        self._circuit = circuit
        self._period = period

    def succeed(self) -> None:
        """It succeeded."""
        self._breaker._end(self, is_success=True)

    def fail(self, error: JidoError) -> None:
        """It failed so; counts if ``error`` speaks of trouble."""
        self._breaker._end(self, is_success=False if is_trouble(error) else None)

    def release(self) -> None:
        """Nobody knows how it ended: it was cancelled."""
        self._breaker._end(self, is_success=None)


def is_trouble(error: JidoError) -> bool:
    """Whether a failed attempt says that what it used is in trouble."""
    if not has_started(error) or isinstance(error, CircuitOpenError):
        return False
    # An exception from outside the tree has the id of its log entry, others were raised on purpose.
    return error.retryable or isinstance(error, TimeoutError) or error.error_id is not None


def breaker_of(name: str, failures: int, reset: float) -> Breaker:
    """A breaker that comes from another process: its settings count from now on.

    Raises:
        ConfigError: A value is ill.
    """
    _check(name, failures, reset)
    with _lock:
        known = _circuits.get(name)
        if known is not None:
            known.settings = (failures, float(reset))
    return Breaker(name, failures=failures, reset=reset)


def _check(name: object, failures: object, reset: object) -> None:
    try:
        check_id(name)
    except ValueError as error:
        raise ConfigError(f"Breaker: name={error}") from None
    if not isinstance(failures, int) or isinstance(failures, bool) or failures < 1:
        raise ConfigError(f"Breaker {name!r}: failures={failures!r}: it must be a number >= 1")
    is_number = isinstance(reset, int | float) and not isinstance(reset, bool)
    if not is_number or not 0 < cast("float", reset) < math.inf:
        raise ConfigError(f"Breaker {name!r}: reset={reset!r}: it must be seconds > 0")


def _forget_unused() -> None:
    """Makes room for another name: of those that are as new nothing is lost but their counts."""
    for name in [name for name, circuit in _circuits.items() if circuit.is_as_new()]:
        del _circuits[name]
    if len(_circuits) >= MAX_BREAKERS:
        raise ConfigError(
            f"{MAX_BREAKERS} breakers are open or in use: name breakers by what they guard, not by "
            f"request"
        )


def _renew() -> None:
    """A forked child starts afresh: the lock may be held by a thread that it does not have."""
    global _lock  # noqa: PLW0603 - one registry per process is the point
    _lock = threading.Lock()
    _circuits.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
