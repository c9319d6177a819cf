"""What a running action knows about its run: the caller's data, the deadline, the trace.

The context of the running action is also kept in a context variable, so that a run started inside
another one inherits deadline, trace and cluster without passing anything on.
"""

import random
import re
import time
from asyncio import _get_running_loop
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeVar

from jido_cluster.errors import UsageError
from jido_cluster.exec.budget import RetryBudget
from jido_cluster.ids import new_id

if TYPE_CHECKING:
    from jido_cluster.exec.resource import Resource, Use

__all__ = ["ClusterBinding", "Context", "current_context"]

T = TypeVar("T")

# https://www.w3.org/TR/trace-context/: version, trace id, span id, flags; all-zero ids are invalid.
is_traceparent = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
).fullmatch

_NO_DATA: Final[Mapping[str, Any]] = {}


class ClusterBinding(Protocol):
    """Gives a context its views of the cluster it runs in."""

    def async_view(self) -> Any:
        """The `AsyncCluster`, for code on an event loop."""

    def sync_view(self) -> Any:
        """The `Cluster`, for code in a thread."""


class Context(Mapping[str, Any]):
    """The second argument of an action: a read-only mapping of the data its caller gave.

    Made once for each message on the hottest path, so whatever is seldom asked for (run id, trace)
    is made when asked for.

    Attributes:
        data: The caller's data, shared with the caller.
        attempt: Number of this attempt, from 1; 0 before the first.
        clock: What `deadline` is measured on, in seconds.
        deadline: When the time is up, on `clock`; None for no limit. It caps everything this
            context is handed to, and only ever moves closer.
        budget: Retries that this run and all below it may still make; None when no run above this
            one may retry.
    """

    __slots__ = (
        "_cluster",
        "_parent",
        "_run_id",
        "_span",
        "attempt",
        "budget",
        "clock",
        "data",
        "deadline",
    )

    def __init__(
        self,
        data: Mapping[str, Any] = _NO_DATA,
        *,
        run_id: str = "",
        attempt: int = 1,
        trace: "str | Context | None" = None,
        deadline: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        cluster: ClusterBinding | None = None,
        budget: RetryBudget | None = None,
    ) -> None:
        """Takes the caller's span as ``trace``: a W3C traceparent, or the caller's context."""
        self.data = data
        self.attempt = attempt
        self.clock = clock
        self.deadline = deadline
        self.budget = budget
        self._run_id = run_id
        self._parent = trace
        self._span = ""
        self._cluster = cluster

    def __getitem__(self, key: str, /) -> Any:
        return self.data[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        # Data are the caller's and may be secret: names only.
        return (
            f"<{type(self).__name__} {self.run_id} attempt={self.attempt} data={list(self.data)}>"
        )

    @property
    def run_id(self) -> str:
        """Names the run, in logs, events and outcomes; the same for all its attempts."""
        if not self._run_id:
            self._run_id = new_id("run-")
        return self._run_id

    @property
    def trace(self) -> str:
        """W3C traceparent of this run: a span of its own in the trace of whoever started it."""
        if not self._span:
            parent = self._parent
            outer = parent.trace if isinstance(parent, Context) else parent
            self.adopt(_child_of(outer), outer)
        return self._span

    def remaining(self) -> float | None:
        """Seconds until the deadline, 0.0 once it has passed; None when there is no limit."""
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - self.clock())

    @property
    def cluster(self) -> Any:
        """The `AsyncCluster` this runs in.

        Raises:
            UsageError: There is no event loop here (use `sync_cluster`), or no cluster.
        """
        if _get_running_loop() is None:
            raise UsageError("ctx.cluster needs an event loop: in sync code use ctx.sync_cluster")
        return self._binding().async_view()

    @property
    def sync_cluster(self) -> Any:
        """The `Cluster` this runs in.

        Raises:
            UsageError: It would block the event loop (use `cluster`), or there is no cluster.
        """
        if _get_running_loop() is not None:
            raise UsageError(
                "ctx.sync_cluster would block the event loop: in async code use ctx.cluster"
            )
        return self._binding().sync_view()

    def use(self, resource: "Resource[T]", /) -> "Use[T]":
        """A resource of this process, for one block: `with` in sync code, else `async with`.

        Raises:
            UsageError: ``resource`` is none.
        """
        from jido_cluster.exec.resource import Resource, Use

        if not isinstance(resource, Resource):
            raise UsageError(f"ctx.use takes a Resource(name, open), not {resource!r}")
        return Use(resource, self)

    def caller_trace(self) -> str | None:
        """The traceparent of whoever started this run, for all its attempts; None if nobody did."""
        parent = self._parent
        if not isinstance(parent, Context):
            return parent
        return parent.caller_trace() if parent.run_id == self.run_id else parent.trace

    def adopt(self, span: str, caller: str | None) -> None:
        """Takes a span that somebody else has begun for this run, as a child of ``caller``."""
        self._span = span
        self._parent = caller  # not the caller's context, which this one would keep alive

    def narrow(self, deadline: float) -> None:
        """Moves the deadline closer; one that is closer already stays."""
        if self.deadline is None or deadline < self.deadline:
            self.deadline = deadline

    def for_attempt(self, attempt: int, deadline: float | None) -> "Context":
        """The context of one attempt of this run."""
        return Context(
            self.data,
            run_id=self.run_id,
            attempt=attempt,
            trace=self,
            deadline=deadline,
            clock=self.clock,
            cluster=self._cluster,
            budget=self.budget,
        )

    def for_run(self, data: Mapping[str, Any] | None) -> "Context":
        """The context of a run started inside this one: its own data, this one's limits."""
        return Context(
            _NO_DATA if data is None else data,
            attempt=0,
            trace=self,
            deadline=self.deadline,
            clock=self.clock,
            cluster=self._cluster,
            budget=self.budget,
        )

    def _binding(self) -> ClusterBinding:
        if self._cluster is None:
            raise UsageError(
                "no cluster here: the action runs by jido.run; start it with cluster.run"
            )
        return self._cluster

    def __copy__(self) -> Self:
        raise UsageError("a Context belongs to one run: pass on ctx.data instead of a copy")


CURRENT: Final[ContextVar[Context | None]] = ContextVar("jido_context", default=None)


def current_context() -> Context | None:
    """The context of the action that is running here; None outside of any."""
    return CURRENT.get()


def _child_of(traceparent: str | None) -> str:
    # Span ids are no secrets: the fast generator will do.
    span = f"{random.getrandbits(64) or 1:016x}"
    if traceparent is not None and is_traceparent(traceparent):
        return f"{traceparent[:35]}-{span}-{traceparent[53:55]}"
    return f"00-{random.getrandbits(128) or 1:032x}-{span}-01"
