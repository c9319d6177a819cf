"""A worker process: runs one action at a time for the process that started it, by name.

Requests and answers are frames on the channel, a socket. The worker imports the action's module,
checks the parameters against the action's types, says that it begins, runs the action in its main
thread, and answers with the result or the error. It ends when the channel closes or when nothing
has come for a while; its guard ends whatever it leaves behind.
"""

import asyncio
import contextlib
import ctypes
import importlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextvars import copy_context
from inspect import iscoroutine
from typing import Any, Final

from pydantic_core import from_json

from jido_cluster.errors import ConfigError, JidoError, UsageError
from jido_cluster.exec.action import find_action
from jido_cluster.exec.budget import RetryBudget
from jido_cluster.exec.context import CURRENT, Context
from jido_cluster.exec.definition import ActionSpec
from jido_cluster.exec.failures import wrap
from jido_cluster.exec.process_frames import SIZES, Frame, join, split
from jido_cluster.exec.retry import NEVER, is_retryable

__all__ = ["main", "serve"]

PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36


class NoCluster:
    """What ``ctx.cluster`` and ``ctx.sync_cluster`` come to in a worker process."""

    def async_view(self) -> Any:
        """Refuses."""
        raise UsageError(
            "no cluster here: an action with executor='process' runs in a process of its own; "
            "connect there, or return what another action is to do on the cluster"
        )

    sync_view = async_view


def main(arguments: list[str]) -> None:
    """Serves on the channel of this file descriptor; never returns.

    Args:
        arguments: File descriptor of the channel, seconds to wait for a request, the guard's pid.
    """
    channel, idle_seconds, guard = int(arguments[0]), float(arguments[1]), int(arguments[2])
    prctl = ctypes.CDLL(None).prctl
    # Should the guard be killed, nobody would end this process: the kernel does.
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # Orphans of an action become children of this process, which then knows that there are some.
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if os.getppid() == guard:
        os.set_inheritable(channel, False)  # noqa: FBT003 - the library's own signature
        with socket.socket(fileno=channel) as connection, contextlib.suppress(ConnectionError):
            serve(connection, idle_seconds)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)  # whatever threads the actions have left


def serve(channel: socket.socket, idle_seconds: float) -> None:
    """Answers requests until the channel closes, or none has come for ``idle_seconds``."""
    while select.select([channel], [], [], idle_seconds)[0]:
        frame = _receive(channel)
        if frame is None:
            return
        channel.sendall(_run(frame, channel))


def _receive(channel: socket.socket) -> Frame | None:
    sizes = _read(channel, SIZES.size)
    content = _read(channel, sum(SIZES.unpack(sizes))) if sizes else b""
    return split(sizes, content) if content else None


def _read(channel: socket.socket, count: int) -> bytes:
    """So many bytes; none when the other side has gone."""
    data = bytearray()
    while len(data) < count:
        part = channel.recv(count - len(data))
        if not part:
            return b""
        data += part
    return bytes(data)


def _run(frame: Frame, channel: socket.socket) -> bytes:
    """The answer to a request; says on the way that the action begins."""
    header, params, data = frame
    try:
        spec = _find(header)
        arguments = spec.work.load_params(params)
        context = _context_of(header, data)
    except JidoError as error:
        return join({"error": error.to_dict(), "begun": False})
    channel.sendall(join({"begin": True}))
    budget = context.budget
    before = budget.left if budget is not None else 0
    answer: dict[str, Any] = {}
    value = b""
    try:
        value = _call(spec, arguments, context)
    except JidoError as error:
        answer = {"error": error.to_dict(), "begun": True}
    except BaseException as error:  # noqa: BLE001 - a worker outlives whatever its actions raise
        retryable = is_retryable(error, spec.options.retry_on)
        failure = wrap(spec.name, error, retryable=retryable)
        answer = {"error": failure.to_dict(), "begun": True, "types": _types_of(error)}
    if budget is not None:
        answer["retries"] = before - budget.left
    return join({**answer, "has_children": _has_children()}, value)


def _find(header: Mapping[str, Any]) -> ActionSpec:
    module = header["module"]
    try:
        importlib.import_module(module)
    except JidoError:
        raise
    except BaseException as error:
        raise ConfigError(
            f"{header['action']}: a worker process cannot import {module}: "
            f"{type(error).__name__}: {error}; sys.path is {sys.path}",
            module=module,
        ) from error
    return find_action(header["action"])


def _context_of(header: Mapping[str, Any], data: bytes) -> Context:
    retries = header["retries"]
    # The clock of all processes of this machine, so what passed since the request counts.
    ends = [] if header["deadline"] is None else [header["deadline"]]
    if header["limit"] is not None:
        ends.append(time.monotonic() + header["limit"])
    context = Context(
        from_json(data),
        run_id=header["run_id"],
        attempt=header["attempt"],
        deadline=min(ends, default=None),
        cluster=NoCluster(),
        budget=None if retries is None else RetryBudget(retries),
    )
    context.adopt(header["trace"], None)  # the very span of the attempt, which its caller tells of
    return context


def _call(spec: ActionSpec, params: Any, context: Context) -> bytes:
    """The result of the action as JSON bytes."""
    work = spec.work
    if work.takes_context_last:
        args: tuple[Any, ...] = (spec.target(), params, context)
        kwargs: dict[str, Any] = {}
    else:
        args = ()
        kwargs = params if work.context_name is None else {**params, work.context_name: context}
    variables = copy_context()
    variables.run(CURRENT.set, context)
    value = variables.run(work.function, *args, **kwargs)
    if iscoroutine(value):
        with asyncio.Runner() as runner:  # one for each: it ends the tasks that an action leaves
            value = runner.run(value, context=variables)
    return work.dump_result(value if spec.output is None else spec.output(value))


def _types_of(error: BaseException) -> list[str]:
    """Names of the exception's classes, for its caller's `retry_on`; none when that may not say."""
    if isinstance(error, NEVER):
        return []
    return [f"{one.__module__}.{one.__qualname__}" for one in type(error).__mro__]


def _has_children() -> bool:
    """Whether the action has left processes, running or not waited for."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
