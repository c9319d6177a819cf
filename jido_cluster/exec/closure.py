"""Closures: an action with some of its input, context and options settled beforehand.

as_json = closure(Process, {"format": "json"}, {"user": "ann"}, max_retries=2)
result = await as_json({"data": "input"})
handle = as_json.start({"data": "input"})
"""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Generic, TypeVar, Unpack, cast, overload

from jido_cluster.exec.context import Context
from jido_cluster.exec.handle import Handle
from jido_cluster.exec.instruction import Instruction, given, instruction_of
from jido_cluster.exec.options import RunOptions
from jido_cluster.exec.run import AsyncRun, SyncRun, run, start
from jido_cluster.exec.runner import context_of

__all__ = ["Closure", "async_closure", "closure"]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

_Data = Mapping[str, Any] | None


class Closure(Generic[R_co]):
    """An action with preset parameters, context and options; values given in the call win.

    Never changes, and may be called any number of times, also at once.
    """

    def __init__(self, instruction: Instruction) -> None:
        self._preset = instruction

    def __repr__(self) -> str:
        # Presets may be secret: names only.
        preset = self._preset
        return f"<Closure {preset.action.__qualname__} params={list(preset.params)}>"

    async def __call__(
        self, params: _Data = None, context: _Data = None, **options: Unpack[RunOptions]
    ) -> R_co:
        """Runs the action and returns its result.

        Args:
            params: Parameters besides the preset ones; of equal names these count. Of a model the
                fields that were set.
            context: Data for `ctx`, merged in the same way.
            **options: As for `run`; nearest wins: these, the preset ones, the action's.

        Raises:
            JidoError: As `run`.
        """
        preset = self._preset
        merged = cast("RunOptions", {**preset.options, **options})
        result = await run(preset.action, self._params(params), self._context(context), **merged)
        return cast("R_co", result)

    def start(
        self, params: _Data = None, context: _Data = None, **options: Unpack[RunOptions]
    ) -> Handle[R_co]:
        """Starts the action in the background of the running loop; otherwise as a call.

        Raises:
            JidoError: As `start`.
        """
        preset = self._preset
        merged = cast("RunOptions", {**preset.options, **options})
        handle = start(preset.action, self._params(params), self._context(context), **merged)
        return cast("Handle[R_co]", handle)

    def _params(self, params: _Data) -> _Data:
        preset = self._preset.params
        return {**preset, **given(params, "params")} if preset else params

    def _context(self, context: _Data) -> _Data:
        preset = self._preset.context
        if not preset:
            return context
        if isinstance(context, Context):  # its deadline and trace count, beside its data
            own = context_of(context)
            own.data = {**preset, **own.data}
            return own
        return {**preset, **given(context, "context")}


@overload
def closure(
    action: type[AsyncRun[Any, R]],
    params: _Data = None,
    context: _Data = None,
    **options: Unpack[RunOptions],
) -> Closure[R]: ...
@overload
def closure(
    action: type[SyncRun[Any, R]],
    params: _Data = None,
    context: _Data = None,
    **options: Unpack[RunOptions],
) -> Closure[R]: ...
@overload
def closure(
    action: Callable[..., Coroutine[Any, Any, R]],
    params: _Data = None,
    context: _Data = None,
    **options: Unpack[RunOptions],
) -> Closure[R]: ...
@overload
def closure(
    action: Callable[..., R],
    params: _Data = None,
    context: _Data = None,
    **options: Unpack[RunOptions],
) -> Closure[R]: ...
def closure(
    action: Any, params: _Data = None, context: _Data = None, **options: Unpack[RunOptions]
) -> Closure[Any]:
    """The action with preset parameters, context and options, to be called with the rest.

    The presets are copied; they need not be complete, and are checked together with the rest in
    each call.

    Raises:
        ConfigError: ``action`` is none, or an option is unknown or ill.
        InvalidInputError: ``params`` or ``context`` is no mapping.
    """
    return Closure(instruction_of((action, params, context, options), "closure"))


@overload
def async_closure(
    action: type[AsyncRun[Any, R]],
    params: _Data = None,
    context: _Data = None,
    **options: Unpack[RunOptions],
) -> Callable[..., Handle[R]]: ...
@overload
def async_closure(
    action: type[SyncRun[Any, R]],
    params: _Data = None,
    context: _Data = None,
    **options: Unpack[RunOptions],
) -> Callable[..., Handle[R]]: ...
@overload
def async_closure(
    action: Callable[..., Coroutine[Any, Any, R]],
    params: _Data = None,
    context: _Data = None,
    **options: Unpack[RunOptions],
) -> Callable[..., Handle[R]]: ...
@overload
def async_closure(
    action: Callable[..., R],
    params: _Data = None,
    context: _Data = None,
    **options: Unpack[RunOptions],
) -> Callable[..., Handle[R]]: ...
def async_closure(
    action: Any, params: _Data = None, context: _Data = None, **options: Unpack[RunOptions]
) -> Callable[..., Handle[Any]]:
    """`closure`, whose calls start the action and return a `Handle`.

    Raises:
        JidoError: As `closure`.
    """
    return closure(action, params, context, **options).start
