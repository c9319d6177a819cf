"""Runs on the cluster: starting them, and asking about them from any process."""

import asyncio
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, Final, Generic, Literal, TypeVar

from jido_cluster.connection import Connection
from jido_cluster.errors import (
    AgentNotFoundError,
    ConfigError,
    DeadlineExceededError,
    NoQuorumError,
    OutcomeUnknownError,
    StillRunningError,
    UnavailableError,
)
from jido_cluster.exec.action import spec_of
from jido_cluster.exec.context import current_context
from jido_cluster.exec.handle import RunStatus
from jido_cluster.exec.many import check_limits
from jido_cluster.exec.needs import Needs, needs_to_data
from jido_cluster.exec.options import check_options, dump_options
from jido_cluster.exec.outcome import Outcome, load_outcome
from jido_cluster.exec.work import Work
from jido_cluster.ids import new_id
from jido_cluster.portal import Portal
from jido_cluster.runtime.link import look
from jido_cluster.runtime.runs import CANCEL, ENDED, START, WAIT
from jido_cluster.runtime.view import run_id_at, shard_of
from jido_cluster.runtime.wire import encode_value, pack, unpack

R_co = TypeVar("R_co", covariant=True)

PATIENCE: Final = 10.0  # seconds of one wait at the run's host
RESOLUTION: Final = 0.001  # seconds; what is left of a wait may be too little to pass
PAUSE: Final = 0.5  # seconds until it is asked again when nobody answered
REPLY_MARGIN: Final = 5.0  # seconds its answer may take beyond that


class AsyncRunRef(Generic[R_co]):
    """A run by its id; any process can ask. Outcomes are kept for 600 s."""

    __slots__ = ("_connection", "_work", "run_id")

    def __init__(self, connection: Connection, run_id: str, work: Work | None = None) -> None:
        self._connection = connection
        self._work = work
        self.run_id = run_id

    def __await__(self) -> Generator[Any, None, R_co]:
        return self.result().__await__()

    async def status(self) -> RunStatus:
        """How far it is, at once."""
        answer = await self._answer(0.0)
        if answer is None:
            raise self._no_answer()
        return answer[0]

    async def wait(self, timeout: float | None = None) -> RunStatus:
        """How far it is, when it has ended or `timeout` seconds have passed."""
        status, _ = await self._wait(timeout)
        return status

    async def result(self, timeout: float | None = None) -> R_co:
        """The run's result.

        Raises:
            StillRunningError: It had not ended in time; it goes on.
            ExecutionError: The action failed.
            OutcomeUnknownError: Nobody knows the run any more.
        """
        outcome = await self.outcome(timeout)
        result: R_co = outcome.unwrap()
        return result

    async def outcome(self, timeout: float | None = None) -> Outcome[Any]:
        """The run's outcome, once it has ended; otherwise as `result`."""
        status, data = await self._wait(timeout)
        if status not in ENDED:
            message = f"run {self.run_id} is still {status} after {timeout} s; it goes on"
            raise StillRunningError(message, run_id=self.run_id)
        return load_outcome(data, self._work)

    async def cancel(self) -> bool:
        """End the run; False if it had ended already."""
        self._connection.check_usable()
        answer = await self._connection.client.submit_to_run(
            self.run_id, CANCEL, b"", self._connection.config.call_timeout
        )
        return bool(answer == b"true")

    def _cancel_soon(self) -> None:
        """As `cancel`, without waiting for the answer."""
        connection = self._connection
        if not connection.is_closed:
            connection.client.submit_to_run(
                self.run_id, CANCEL, b"", connection.config.call_timeout
            ).add_done_callback(look)

    async def _wait(self, timeout: float | None) -> tuple[RunStatus, bytes]:
        loop = self._connection.client.loop
        context = current_context()
        limit = context.remaining() if context is not None else None
        limits = [seconds for seconds in (timeout, limit) if seconds is not None]
        end = loop.time() + min(limits) if limits else None
        while True:
            left = PATIENCE if end is None else min(end - loop.time(), PATIENCE)
            answer = await self._answer(max(left, 0.0))
            is_last = end is not None and end - loop.time() < RESOLUTION
            if answer is None and is_last:
                raise self._no_answer()
            if answer is None:
                left = PAUSE if end is None else min(end - loop.time(), PAUSE)
                await asyncio.sleep(left)
            elif is_last or answer[0] in ENDED:
                return answer

    def _no_answer(self) -> UnavailableError:
        message = f"the host that tracks run {self.run_id} does not answer; the run goes on"
        return UnavailableError(message, retry_after=1.0, run_id=self.run_id)

    async def _answer(self, patience: float) -> tuple[RunStatus, bytes] | None:
        """Status and outcome after at most `patience` seconds; None when nobody answers.

        Raises:
            OutcomeUnknownError: Nobody knows the run.
        """
        self._connection.check_usable()
        try:
            answer = await self._connection.client.submit_to_run(
                self.run_id, WAIT, pack((patience,)), patience + REPLY_MARGIN
            )
        except NoQuorumError:
            return None  # for now; who waits goes on waiting
        except (AgentNotFoundError, OutcomeUnknownError, DeadlineExceededError) as error:
            # As a cause: said by the host that has the run's shard since the one we asked died.
            if not isinstance(error, AgentNotFoundError) and not isinstance(
                error.__cause__, AgentNotFoundError
            ):
                return None  # the question changes nothing, and may be asked again
            message = (
                f"nobody knows run {self.run_id}: it ended more than 600 s ago, or the process "
                "that tracked it is gone"
            )
            raise OutcomeUnknownError(message, op_id=self.run_id) from error
        status, data = unpack(answer)
        return status, data

    def __repr__(self) -> str:
        return f"AsyncRunRef({self.run_id!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        from jido_cluster.connections import load_run

        return (load_run, (False, self._connection.address, self._connection.name, self.run_id))


class RunRef(Generic[R_co]):
    """A run by its id, for synchronous code."""

    __slots__ = ("_portal", "_ref")

    def __init__(self, ref: AsyncRunRef[R_co], portal: Portal) -> None:
        self._ref = ref
        self._portal = portal

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._ref.run_id

    def status(self) -> RunStatus:
        """As `AsyncRunRef.status`."""
        return self._portal.call(self._ref.status())

    def wait(self, timeout: float | None = None) -> RunStatus:
        """As `AsyncRunRef.wait`."""
        return self._portal.call(self._ref.wait(timeout))

    def result(self, timeout: float | None = None) -> R_co:
        """As `AsyncRunRef.result`."""
        return self._portal.call(self._ref.result(timeout))

    def cancel(self) -> bool:
        """As `AsyncRunRef.cancel`."""
        return self._portal.call(self._ref.cancel())

    def __repr__(self) -> str:
        return f"RunRef({self.run_id!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        from jido_cluster.connections import load_run

        connection = self._ref._connection
        return (load_run, (True, connection.address, connection.name, self.run_id))


async def start_run(
    connection: Connection,
    action: Any,
    params: Any,
    context: Mapping[str, Any] | None,
    needs: Any,
    options: Mapping[str, Any],
) -> AsyncRunRef[Any]:
    """Start an action on a fit node.

    Raises:
        InvalidInputError: The parameters do not validate; nothing was started.
        NotRegisteredError: The action is not known here.
        ConfigError: An option is unknown, ill, or does not travel.
    """
    connection.check_usable()
    spec = spec_of(action)
    chosen = dump_options(check_options(options))
    if needs is not None and not isinstance(needs, Needs):
        message = f"needs is {needs!r}; it must be a Needs(labels=..., resources=...)"
        raise ConfigError(message)
    body = spec.dump_params(params)
    data = encode_value(dict(context or {}))
    await connection.prepare(spec.target)
    fallback = options.get("fallback")
    if fallback is not None and not isinstance(fallback, str):
        await connection.prepare(spec_of(fallback).target)
    outer = current_context()
    remaining = outer.remaining() if outer is not None else None
    if remaining is not None and remaining <= 0:
        message = "the time of the running turn is up; nothing was started"
        raise DeadlineExceededError(message)
    client = connection.client
    unique = new_id("run-")
    run_id = run_id_at(shard_of(unique, client.view.shards), unique)
    request = pack(
        (
            spec.name,
            body,
            data,
            chosen,
            needs_to_data(needs if needs is not None else spec.needs),
            outer.trace if outer is not None else None,
        )
    )
    seconds, _ = connection.envelope(connection.config.call_timeout, None, None, ("", "run", b""))
    await client.submit_to_run(run_id, START, request, seconds)
    return AsyncRunRef(connection, run_id, spec.work)


async def outcome_or_cancel(ref: AsyncRunRef[Any]) -> Outcome[Any]:
    """The outcome of a run that is cancelled when nobody waits for it any more.

    Raises:
        StillRunningError: The time of the turn or action that waits is up.
    """
    try:
        return await ref.outcome()
    except (asyncio.CancelledError, StillRunningError):
        # Told, not waited for: whoever gave up has no time, and the word is repeated until heard.
        ref._cancel_soon()
        raise


async def run_many(
    connection: Connection,
    action: Any,
    items: Iterable[Any],
    context: Mapping[str, Any] | None,
    *,
    needs: Needs | None,
    max_concurrency: int | None,
    on_failure: Literal["raise", "collect"],
    progress: Callable[[Outcome[Any]], None] | None,
    options: Mapping[str, Any],
) -> list[Any]:
    """Run an action on each item over the nodes; results in the order of the items."""
    check_limits(max_concurrency, on_failure)
    work = list(items)
    gate = asyncio.Semaphore(max_concurrency or max(len(work), 1))

    async def one(item: Any) -> Outcome[Any]:
        async with gate:
            ref = await start_run(connection, action, item, context, needs, options)
            outcome = await outcome_or_cancel(ref)
        if progress is not None:
            progress(outcome)
        if on_failure == "raise" and not outcome.ok:
            outcome.unwrap()
        return outcome

    tasks = [asyncio.ensure_future(one(item)) for item in work]
    try:
        outcomes = await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    return outcomes if on_failure == "collect" else [outcome.value for outcome in outcomes]
