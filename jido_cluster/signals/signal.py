"""The signal: a CloudEvent, immutable, with plain data.

Source: CloudEvents 1.0.2, https://github.com/cloudevents/spec. `id`, `source` and `type` are
required there; here `id` and `source` get values by themselves.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Concatenate, ParamSpec, TypeVar, overload

from pydantic_core import from_json, to_jsonable_python

from jido_cluster.errors import ConfigError, InvalidInputError
from jido_cluster.ids import new_id
from jido_cluster.signals.handler import declaration_of, name_arguments
from jido_cluster.signals.pattern import check_type

P = ParamSpec("P")
A = TypeVar("A")
SPECVERSION = "1.0"


class Signal:
    """One event: what happened (`type`), where (`source`), to what (`subject`), and its data.

    Args:
        type: Literal dotted type, without wildcards.
        data: JSON-shaped by pydantic's rules when it travels; at most 1 MiB.
        id: Unique within `source`; made when absent.
        source: Who says so; a URI reference. Inside a turn the agent's id, else "/".
        subject: What it is about, within the source.
        time: Aware point in time; now when absent.
        extensions: Further attributes: lower-case names, scalar values.

    Raises:
        ConfigError: The type is malformed or a pattern.
        InvalidInputError: `time` is naive, or an extension is malformed.
    """

    __slots__ = ("data", "extensions", "id", "source", "subject", "time", "type")

    id: str
    type: str
    source: str
    subject: str | None
    time: datetime
    data: Any
    extensions: Mapping[str, str | int | bool]

    def __init__(
        self,
        type: str,
        data: Any = None,
        /,
        *,
        id: str | None = None,
        source: str | None = None,
        subject: str | None = None,
        time: datetime | None = None,
        extensions: Mapping[str, str | int | bool] = MappingProxyType({}),
    ) -> None:
        if time is None:
            time = datetime.now(UTC)
        elif time.tzinfo is None:
            message = f"signal time {time!r} has no time zone; use datetime.now(timezone.utc)"
            raise InvalidInputError(message)
        for name, value in extensions.items():
            _check_extension(name, value)
        put = object.__setattr__
        put(self, "type", check_type(type))
        put(self, "data", data)
        put(self, "id", id or new_id())
        put(self, "source", source or "/")
        put(self, "subject", subject)
        put(self, "time", time)
        put(self, "extensions", MappingProxyType(dict(extensions)))

    @overload
    @classmethod
    def of(
        cls, handler: Callable[Concatenate[A, P], Any], /, *args: P.args, **kwargs: P.kwargs
    ) -> "Signal": ...
    @overload
    @classmethod
    def of(cls, handler: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> "Signal": ...
    @classmethod
    def of(cls, handler: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Signal":
        """The signal that makes `handler` run with these arguments.

        Raises:
            HandlerNotFoundError: The function has no `@on`.
            InvalidInputError: The arguments do not fit, or the handler listens to a pattern.
        """
        declaration = declaration_of(handler)
        if not declaration.pattern.is_exact:
            message = (
                f"handler {declaration.name!r} listens to the pattern "
                f"{declaration.pattern.text!r}; build the Signal with a literal type"
            )
            raise InvalidInputError(message)
        named = name_arguments(declaration, args, kwargs)
        return cls(declaration.pattern.text, from_json(declaration.work.dump_params(named)))

    def __setattr__(self, name: str, value: object) -> None:
        message = f"a Signal is immutable; make a new one to change {name!r}"
        raise AttributeError(message)

    def __delattr__(self, name: str) -> None:
        message = f"a Signal is immutable; it keeps {name!r}"
        raise AttributeError(message)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Signal) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.source, self.id))  # the pair CloudEvents declares unique

    def __repr__(self) -> str:
        return f"Signal({self.type!r}, {self.data!r}, id={self.id!r}, source={self.source!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_from_dict, (self.to_dict(),))

    def to_dict(self) -> dict[str, Any]:
        """The CloudEvents JSON form; extensions are top-level attributes, as the standard says."""
        event: dict[str, Any] = {
            **self.extensions,
            "specversion": SPECVERSION,
            "id": self.id,
            "source": self.source,
            "type": self.type,
            "time": self.time.isoformat(),
            "data": self._plain_data(),
        }
        if self.subject is not None:
            event["subject"] = self.subject
        return event

    def _plain_data(self) -> Any:
        try:
            return to_jsonable_python(self.data, bytes_mode="base64", inf_nan_mode="constants")
        except ValueError as error:
            message = f"the data of signal {self.type!r} do not travel: {error}"
            raise InvalidInputError(message) from error

    @classmethod
    def from_dict(cls, event: Mapping[str, Any]) -> "Signal":
        """The signal of a CloudEvents JSON object; unknown attributes become extensions.

        Raises:
            InvalidInputError: A required attribute is missing, or the version is not 1.0.x.
        """
        version = str(event.get("specversion", SPECVERSION))
        if version != SPECVERSION and not version.startswith(SPECVERSION + "."):
            message = f"CloudEvents specversion {version!r} is not supported; send 1.0"
            raise InvalidInputError(message)
        for name in ("id", "source", "type", "subject"):
            value = event.get(name)
            is_optional = name == "subject" and value is None
            if not is_optional and not (isinstance(value, str) and value):
                message = f"not a CloudEvent: attribute {name!r} is {value!r}; it must be a text"
                raise InvalidInputError(message)
        try:
            time = event.get("time")
            return cls(
                event["type"],
                event.get("data"),
                id=event["id"],
                source=event["source"],
                subject=event.get("subject"),
                time=None if time is None else datetime.fromisoformat(time),
                extensions={name: event[name] for name in event if name not in _ATTRIBUTES},
            )
        except (ConfigError, ValueError, TypeError) as error:
            if isinstance(error, InvalidInputError):
                raise
            message = f"not a CloudEvent: {error}"
            raise InvalidInputError(message) from error


_ATTRIBUTES = frozenset(
    {
        "specversion",
        "id",
        "source",
        "type",
        "time",
        "subject",
        "data",
        "datacontenttype",
        "dataschema",
    }
)


def _from_dict(event: dict[str, Any]) -> Signal:
    return Signal.from_dict(event)


def from_wire(data: bytes) -> Signal:
    """The signal of its JSON bytes.

    Raises:
        InvalidInputError: As `Signal.from_dict`.
    """
    try:
        event = from_json(data)
    except ValueError as error:
        message = f"not a CloudEvent: {error}"
        raise InvalidInputError(message) from error
    if not isinstance(event, dict):
        message = f"not a CloudEvent: {type(event).__name__} instead of an object"
        raise InvalidInputError(message)
    return Signal.from_dict(event)


def _check_extension(name: str, value: object) -> None:
    if not (name.isascii() and name.isalnum() and name == name.lower()) or name in _ATTRIBUTES:
        message = (
            f"extension {name!r}: CloudEvents allows lower-case letters and digits, "
            "and no name of an attribute"
        )
        raise InvalidInputError(message)
    if not isinstance(value, (str, int, bool)):
        message = f"extension {name!r} is {value!r}; use a string, an integer or a boolean"
        raise InvalidInputError(message)
