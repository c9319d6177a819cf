"""Reads a function's signature into what its parameters and result may be.

Parameters of actions and handlers are one JSON object, so each has to be reachable by name and to
say its type. Defaults stay with the function: what is absent from the object is not passed.
"""

import inspect
import typing
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NotRequired, Required

from pydantic.fields import FieldInfo
from typing_extensions import TypedDict

from jido_cluster.errors import ConfigError
from jido_cluster.exec.context import Context

__all__ = ["Signature", "annotations_of", "params_type", "read_signature"]


@dataclass(frozen=True, slots=True)
class Signature:
    """What `read_signature` found.

    Attributes:
        types: Annotation of each parameter by name, in order; without an injected context.
        defaults: Default of each parameter that has one.
        has_extra: Whether there is a ``**`` parameter.
        extra: Annotation of the ``**`` parameter.
        context_name: The parameter that takes the `Context`; None when there is none.
        result: Annotation of the result, or of each item of a stream; Any when there is none.
        is_stream: Whether the function is an async generator.
    """

    types: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    has_extra: bool = False
    extra: Any = None
    context_name: str | None = None
    result: Any = Any
    is_stream: bool = False


def read_signature(
    function: Callable[..., Any],
    name: str,
    *,
    skip_first: bool,
    with_context: bool,
    may_stream: bool,
    localns: Mapping[str, Any] | None,
) -> Signature:
    """The signature of an action function or a handler.

    Raises:
        ConfigError: A parameter cannot be given by name or has no type, or an annotation does not
            resolve; names the function and the parameter.
    """
    is_stream = _is_stream(function, name, may_stream=may_stream)
    hints = annotations_of(function, name, localns)
    types: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    context_name: str | None = None
    extra = None
    has_extra = False
    for parameter in list(inspect.signature(function).parameters.values())[int(skip_first) :]:
        annotation = _annotation(parameter, hints, name)
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            has_extra, extra = True, annotation
        elif isinstance(annotation, type) and issubclass(annotation, Context):
            if not with_context:
                raise ConfigError(
                    f"{name}: parameter {parameter.name!r} is a Context: a handler has self.ctx"
                )
            context_name = parameter.name
        else:
            types[parameter.name] = annotation
            if parameter.default is not inspect.Parameter.empty:
                defaults[parameter.name] = _default(parameter, name)
    result = hints.get("return", Any)
    if is_stream:
        result = _item_type(result, name)
    return Signature(types, defaults, has_extra, extra, context_name, result, is_stream)


def annotations_of(
    function: Callable[..., Any], name: str, localns: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The function's annotations, resolved.

    Raises:
        ConfigError: One of them does not resolve.
    """
    try:
        return typing.get_type_hints(
            function, localns=dict(localns) if localns else None, include_extras=True
        )
    except Exception as error:
        raise ConfigError(
            f"{name}: an annotation of {_qualname(function)}() does not resolve: {error}"
        ) from error


def params_type(signature: Signature, name: str, *, extra: str) -> Any:
    """A TypedDict whose validation checks all parameters at once; ``extra`` as pydantic has it."""
    fields = {
        parameter: NotRequired[annotation]
        if parameter in signature.defaults
        else Required[annotation]
        for parameter, annotation in signature.types.items()
    }
    # The functional form takes names that are keywords of Python too; mypy wants literals there.
    create: Any = TypedDict
    if signature.has_extra:
        made = create(name, fields, extra_items=signature.extra)
        made.__pydantic_config__ = {**JSON_CONFIG, "extra": "allow"}
    else:
        made = create(name, fields)
        made.__pydantic_config__ = {**JSON_CONFIG, "extra": extra}
    return made


# What travels is JSON that loads again as it was: by default pydantic stores inf as null, and fails
# on bytes that are no UTF-8.
JSON_CONFIG: Final = {
    "val_json_bytes": "base64",
    "ser_json_bytes": "base64",
    "ser_json_inf_nan": "constants",
}


def _annotation(parameter: inspect.Parameter, hints: Mapping[str, Any], name: str) -> Any:
    if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
        raise ConfigError(f"{name}: *{parameter.name} cannot be given by name; take a list instead")
    if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
        raise ConfigError(
            f"{name}: parameter {parameter.name!r} is positional-only; remove the '/' after it"
        )
    if parameter.name not in hints:
        raise ConfigError(f"{name}: parameter {parameter.name!r} has no annotation; give its type")
    return hints[parameter.name]


def _default(parameter: inspect.Parameter, name: str) -> Any:
    if isinstance(parameter.default, FieldInfo):
        raise ConfigError(
            f"{name}: parameter {parameter.name!r} has a Field as its default, which a plain call "
            f"would get as its value; write {parameter.name}: Annotated[..., Field(...)] instead"
        )
    return parameter.default


def _is_stream(function: Callable[..., Any], name: str, *, may_stream: bool) -> bool:
    is_stream = inspect.isasyncgenfunction(function)
    if inspect.isgeneratorfunction(function) or (is_stream and not may_stream):
        remedy = "make it an `async def` that yields, or return" if may_stream else "return"
        raise ConfigError(
            f"{name}: {_qualname(function)}() is a generator; {remedy} its values as one result"
        )
    return is_stream


def _item_type(annotation: Any, name: str) -> Any:
    if annotation is Any:
        return Any
    if (typing.get_origin(annotation) or annotation) not in _STREAMS:
        raise ConfigError(
            f"{name}: it yields, so its result is AsyncIterator[...] of what it yields, not "
            f"{annotation!r}"
        )
    return (*typing.get_args(annotation), Any)[0]


_STREAMS: Final = (AsyncIterator, AsyncIterable, AsyncGenerator)


def _qualname(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))
