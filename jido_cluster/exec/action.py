"""Actions: units of work with typed parameters, as classes or as functions.

    class Resize(Action, name="resize", timeout=60.0, max_retries=2):
        class Params(BaseModel):
            path: str
            width: int = 640

        def run(self, params: Params, ctx: Context) -> str: ...

    @action(name="greet")
    async def greet(name: str, ctx: Context) -> str: ...

A definition that cannot work is refused with `ConfigError` when the class or function is made.
"""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, Final, Literal, TypeVar, Unpack

from pydantic import BaseModel

from jido_cluster.errors import ConfigError, JidoError
from jido_cluster.exec.context import Context
from jido_cluster.exec.definition import (
    ActionSpec,
    Definition,
    define,
    find_action,
    register,
    registered_actions,
)
from jido_cluster.exec.needs import Needs
from jido_cluster.exec.options import DEFINITION, RunOptions
from jido_cluster.exec.process import ProcessWork
from jido_cluster.exec.signature import JSON_CONFIG, annotations_of
from jido_cluster.exec.work import Work

__all__ = [
    "Action",
    "ActionSpec",
    "action",
    "find_action",
    "register_action",
    "registered_actions",
    "spec_of",
]

F = TypeVar("F", bound=Callable[..., Any])

_INPUT_HOOKS: Final = ("on_before_validate", "on_after_validate")
_RESULT_HOOKS: Final = ("on_before_result", "on_after_run")

_NO_KEYWORDS: Final[Mapping[str, Any]] = {
    "name": None,
    "description": "",
    "category": "",
    "tags": (),
    "version": "1",
    "executor": "auto",
    "needs": None,
    "options": {},
}

# Compiled actions of this process. They are not kept on the class: validators do not pickle, and a
# class that is sent by value takes its attributes along.
_SPECS: dict[Any, ActionSpec] = {}


class Action:
    """A unit of work: subclass it, write `run`, and give keywords after the base class.

    Nested ``Params`` and ``Result`` are optional pydantic models; without ``Params`` the model in
    `run`'s annotation counts, and without that the mapping is passed as given. `run` may be
    ``async def``; a plain one runs in a thread. Each run has an instance of its own, which the
    hooks share. Hooks may be ``async def`` where `run` is; input hooks and `on_error` always.

    With ``executor="process"``, `run` and the result hooks run in a worker process, on an instance
    of their own: killed at the timeout, the deadline or cancellation, with every process they have
    started. Parameters, context data and result travel as JSON.
    """

    def __init_subclass__(
        cls,
        *,
        name: str | None = None,
        description: str = "",
        category: str = "",
        tags: Sequence[str] = (),
        version: str = "1",
        executor: Literal["auto", "process"] = "auto",
        needs: Needs | None = None,
        **options: Unpack[RunOptions],
    ) -> None:
        """Checks and registers the action.

        Raises:
            ConfigError: The definition cannot work; names the class and what is wrong.
        """
        super().__init_subclass__()
        definition = define(
            cls,
            name=name,
            description=description,
            category=category,
            tags=tags,
            version=version,
            executor=executor,
            needs=needs,
            options=options,
        )
        is_bare = definition == define(cls, **_NO_KEYWORDS)
        if _is_base(cls, is_bare=is_bare):
            return
        setattr(cls, DEFINITION, definition)
        register_action(cls)

    def run(self, params: Any, ctx: Context, /) -> Any:
        """The work itself: its result from checked parameters."""
        raise NotImplementedError

    def on_before_validate(self, params: Mapping[str, Any], /) -> Any:
        """Returns the parameters to be checked; once for each run."""
        return params

    def on_after_validate(self, params: Any, /) -> Any:
        """Returns the parameters for `run`; once for each run."""
        return params

    def on_before_result(self, result: Any, /) -> Any:
        """Returns the result to be checked; in each attempt that got so far."""
        return result

    def on_after_run(self, result: Any, /) -> Any:
        """Sees the checked result; what it returns is ignored, what it raises fails the attempt."""

    def on_error(self, params: Any, error: JidoError, ctx: Context, /) -> Any:
        """Compensation: undoes outside effects of a run that failed for good, or was cancelled."""


def action(
    *,
    name: str,
    description: str = "",
    category: str = "",
    tags: Sequence[str] = (),
    version: str = "1",
    executor: Literal["auto", "process"] = "auto",
    needs: Needs | None = None,
    **options: Unpack[RunOptions],
) -> Callable[[F], F]:
    """Makes a function an action; it stays callable as it was.

    Parameters and result come from its signature; a parameter annotated `Context` takes the run's
    context.

    Raises:
        ConfigError: The definition cannot work; names the function and what is wrong.
    """
    caller = sys._getframe(1)  # annotations may name what the caller has defined
    localns = None if caller.f_locals is caller.f_globals else dict(caller.f_locals)

    def decorate(function: F) -> F:
        if not inspect.isfunction(function):
            raise ConfigError(f"@action({name!r}) decorates a plain function, not {function!r}")
        definition = define(
            function,
            name=name,
            description=description,
            category=category,
            tags=tags,
            version=version,
            executor=executor,
            needs=needs,
            options=options,
        )
        setattr(function, DEFINITION, definition)
        _add(_compile_function(function, definition, localns))
        return function

    return decorate


def register_action(target: Any) -> ActionSpec:
    """Compiles and registers an action that was not defined in this process: it came by value.

    Raises:
        ConfigError: It is no action, or another one has its name.
    """
    definition = vars(target).get(DEFINITION) if hasattr(target, "__dict__") else None
    if definition is None:
        raise ConfigError(
            f"{_shown(target)} is no action: subclass Action with a run method, or decorate a "
            f"function with @action(name=...)"
        )
    if isinstance(target, type):
        spec = _compile_class(target, definition)
    else:
        spec = _compile_function(target, definition, None)
    _add(spec)
    return spec


def spec_of(target: Any) -> ActionSpec:
    """The specification of an action, from its class or function, or its registered name.

    Raises:
        ConfigError: It is no action.
        NotRegisteredError: It is a name that nothing here has.
    """
    try:
        spec = _SPECS.get(target)
    except TypeError:  # not hashable: no action either
        spec = None
    if spec is not None and vars(target).get(DEFINITION) is spec.definition:
        # Otherwise the class arrived by value and got its definition after it had been made.
        return spec
    return find_action(target) if isinstance(target, str) else register_action(target)


def _add(spec: ActionSpec) -> None:
    register(spec)
    _SPECS[spec.target] = spec


def _is_base(cls: type[Action], *, is_bare: bool) -> bool:
    """Whether the class is no action but a base of some: its `run` is abstract, or yet to come.

    A class that arrives by value is first made bare, without keywords and with an empty body, and
    filled afterwards.
    """
    if getattr(cls.run, "__isabstractmethod__", False):
        return True
    if cls.run is not Action.run:
        return False
    body = {name for name in vars(cls) if not (name.startswith("__") and name.endswith("__"))}
    if body or not is_bare:
        raise ConfigError(
            f"action {cls.__qualname__} has no run(self, params, ctx); write it, or mark it "
            f"@abstractmethod in a base class"
        )
    return True


def _compile_function(
    function: Callable[..., Any], definition: Definition, localns: Mapping[str, Any] | None
) -> ActionSpec:
    work = _kind_of(definition).from_signature(
        function,
        name=definition.name,
        version=definition.version,
        with_context=True,
        localns=localns,
    )
    if isinstance(work, ProcessWork):
        work.module = function.__module__
    return ActionSpec(function, definition, work, output=work.check_result)


def _compile_class(cls: type[Action], definition: Definition) -> ActionSpec:
    run = cls.run
    owner = f"action {cls.__qualname__}"
    _check_run(run, owner)
    _check_constructor(cls, owner)
    hints = annotations_of(run, owner, _names_in(cls))
    params_name = list(inspect.signature(run).parameters)[1]
    params = _params_model(cls, hints.get(params_name), owner)
    result = _nested_model(cls, "Result", owner) or hints.get("return", Any)
    kind = _kind_of(definition)
    work = kind.from_model(
        run, name=definition.name, version=definition.version, params=params, result=result
    )
    output: Callable[[Any], Any] | None = work.check_result
    hooks = [hook for hook in _RESULT_HOOKS if getattr(cls, hook) is not getattr(Action, hook)]
    if hooks:
        is_async = inspect.iscoroutinefunction(run)
        for hook in hooks:
            if inspect.iscoroutinefunction(getattr(cls, hook)) and not is_async:
                raise ConfigError(f"{owner}: {hook} is async, so run must be async too")
        wrapped = _with_result_hooks(run, work.check_result, is_async=is_async)
        work = kind.from_model(
            wrapped, name=definition.name, version=definition.version, params=params, result=result
        )
        output = None
    if isinstance(work, ProcessWork):
        work.module = cls.__module__
    compensation = None
    if cls.on_error is not Action.on_error:
        compensation = Work.from_model(
            cls.on_error,
            name=f"{definition.name}.on_error",
            version=definition.version,
            params=None,
            result=Any,
        )
    return ActionSpec(
        cls,
        definition,
        work,
        compensation=compensation,
        output=output,
        params_model=params,
        checks_input_by_hooks=any(
            getattr(cls, hook) is not getattr(Action, hook) for hook in _INPUT_HOOKS
        ),
    )


def _kind_of(definition: Definition) -> type[Work]:
    return ProcessWork if definition.executor == "process" else Work


def _with_result_hooks(
    run: Callable[..., Any], check: Callable[[Any], Any], *, is_async: bool
) -> Callable[..., Any]:
    """`run` followed by the result hooks, within one attempt and in the same place."""
    if not is_async:

        @wraps(run)
        def call(self: Action, params: Any, ctx: Context) -> Any:
            result = check(self.on_before_result(run(self, params, ctx)))
            self.on_after_run(result)
            return result

        return call

    @wraps(run)
    async def call_async(self: Action, params: Any, ctx: Context) -> Any:
        result = self.on_before_result(await run(self, params, ctx))
        if inspect.isawaitable(result):
            result = await result
        result = check(result)
        told = self.on_after_run(result)
        if inspect.isawaitable(told):
            await told
        return result

    return call_async


def _check_run(run: Callable[..., Any], owner: str) -> None:
    if not inspect.isfunction(run):
        raise ConfigError(f"{owner}: run must be a plain method")
    if inspect.isgeneratorfunction(run) or inspect.isasyncgenfunction(run):
        raise ConfigError(f"{owner}: run is a generator; return its values as one result")
    parameters = list(inspect.signature(run).parameters.values())
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(parameters) != 3 or any(one.kind not in by_position for one in parameters):
        shown = ", ".join(str(one) for one in parameters)
        raise ConfigError(f"{owner}: run takes (self, params, ctx), not ({shown})")


def _check_constructor(cls: type[Action], owner: str) -> None:
    try:
        inspect.signature(cls).bind()
    except TypeError as error:
        raise ConfigError(
            f"{owner}: each run makes an instance without arguments, but __init__ wants some: "
            f"{error}"
        ) from None


def _params_model(cls: type[Action], annotation: Any, owner: str) -> type[BaseModel] | None:
    """The model of the parameters: nested, or else the one that `run` is annotated with."""
    nested = _nested_model(cls, "Params", owner)
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return nested
    if nested is not None and not issubclass(nested, annotation):
        raise ConfigError(
            f"{owner}: run takes {annotation.__qualname__}, but Params is {nested.__qualname__}"
        )
    return nested or annotation


def _nested_model(cls: type[Action], name: str, owner: str) -> type[BaseModel] | None:
    model = getattr(cls, name, None)
    if model is None:
        return None
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise ConfigError(f"{owner}: {name} must be a pydantic model, not {model!r}")
    missing = {key: value for key, value in JSON_CONFIG.items() if key not in model.model_config}
    if missing and model.__qualname__ == f"{cls.__qualname__}.{name}":
        # A model of its own gets what travelling needs, unless its author has decided otherwise.
        model.model_config.update(missing)  # type: ignore[typeddict-item]
        model.model_rebuild(force=True, raise_errors=False, _types_namespace=_names_in(cls))
    return model


def _names_in(cls: type[Action]) -> dict[str, Any]:
    """Names that annotations inside the class may use: those of its body and of its bases'."""
    names: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        names.update(vars(base))
    names[cls.__name__] = cls
    return names


def _shown(target: object) -> str:
    return getattr(target, "__qualname__", None) or repr(target)
