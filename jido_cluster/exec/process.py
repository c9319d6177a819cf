"""Actions with ``executor="process"``: one attempt of them, in a worker process.

Where what runs: input hooks and `on_error` here, where the run is; `run` and the result hooks in
the worker, on an instance of the action that is made there. Parameters, the context's data and the
result are JSON, as between nodes, with the same limit of size. The worker knows no cluster, and its
events are heard by nobody.
"""

import atexit
import os
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from pydantic_core import to_json

from jido_cluster.errors import ConfigError, InvalidInputError, JidoError
from jido_cluster.exec.context import Context
from jido_cluster.exec.failures import check_size, never_started
from jido_cluster.exec.process_frames import Frame, join
from jido_cluster.exec.process_pool import ProcessPool
from jido_cluster.exec.work import Work

__all__ = ["ProcessWork"]

_Types = tuple[type[Exception], ...]


class ProcessWork(Work):
    """Work that a worker process runs, which finds it by its action's name.

    Attributes:
        module: What the worker imports to know the action.
    """

    __slots__ = ("module",)

    def __init__(self, function: Callable[..., Any], **rest: Any) -> None:
        super().__init__(function, **rest)
        self.is_async = False  # here it is neither: nothing of it runs in this process
        self.module = ""

    async def call_in_process(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        context: Context,
        limit: float | None,
        retry_on: _Types,
        told: MutableMapping[str, float] | None,
    ) -> Any:
        """The result of one attempt.

        Args:
            args: As the function would get them, the context included.
            kwargs: The same.
            context: The attempt's.
            limit: Seconds the action may run; None for no limit.
            retry_on: Exceptions to be marked retryable besides those the table has.
            told: Gets ``queue``, the seconds until the action began.

        Raises:
            JidoError: What the action raised; or `ProcessPool.call` does.
            OutOfTime: It did not end in time.
        """
        if sys.platform != "linux":
            raise never_started(
                ConfigError(f"{self.name}: executor='process' needs Linux, not {sys.platform}")
            )
        if self.takes_context_last:
            params = args[1]
        else:
            params = {key: kwargs[key] for key in kwargs if key != self.context_name}
        parameters, data = self.dump_params(params), self._dump_data(context)

        def request() -> bytes:
            return join(self._header(context, limit), parameters, data)

        answer = await POOL.call(
            self.name,
            request,
            limit=limit,
            deadline=context.deadline,
            clock=context.clock,
            told=told,
        )
        return self._value_of(answer, context, retry_on)

    def _header(self, context: Context, limit: float | None) -> dict[str, Any]:
        left = context.remaining()
        budget = context.budget
        return {
            "action": self.name,
            "module": self.module,
            "run_id": context.run_id,
            "attempt": context.attempt,
            "trace": context.trace,
            "limit": limit,
            "deadline": None if left is None else time.monotonic() + left,
            "retries": None if budget is None else budget.left,
        }

    def _dump_data(self, context: Context) -> bytes:
        try:
            data = to_json(dict(context.data), bytes_mode="base64", inf_nan_mode="constants")
        except (TypeError, ValueError) as error:
            raise never_started(
                InvalidInputError(
                    f"{self.name}: the context's data go to a worker process as JSON: {error}"
                )
            ) from None
        check_size(data, f"{self.name}: context", InvalidInputError)
        return data

    def _value_of(self, answer: Frame, context: Context, retry_on: _Types) -> Any:
        header, value, _ = answer
        if context.budget is not None:
            context.budget.take(header.get("retries", 0))
        found = header.get("error")
        if found is None:
            return self.load_result(value)
        error = JidoError.from_dict(found)
        if not header["begun"]:
            never_started(error)
        types = header.get("types", ())
        if any(f"{one.__module__}.{one.__qualname__}" in types for one in retry_on):
            error.retryable = True
        raise error


# The process's pool. Tests put their own here.
POOL = ProcessPool()


def _renew() -> None:
    """A forked child has no part in its parent's workers."""
    global POOL  # noqa: PLW0603 - one pool per process is the point
    POOL.forget()
    POOL = ProcessPool()


def _close() -> None:
    POOL.close()


atexit.register(_close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
