"""Work: a function with validators compiled from its types. Built once, run many times.

Every action and every handler becomes one `Work`. JSON bytes are what travels between processes, so
its four conversions are bytes to parameters, parameters to bytes, and the same for the result. Each
is one call into pydantic's compiled core: no model instance is made for a handler's parameters.
"""

from collections.abc import Callable, Mapping
from functools import partial
from inspect import iscoroutinefunction
from types import NoneType
from typing import Any, Final

from pydantic import AliasChoices, AliasPath, BaseModel, TypeAdapter
from pydantic_core import CoreConfig, SchemaSerializer, SchemaValidator, from_json, to_json

from jido_cluster.errors import ConfigError, InvalidInputError, InvalidOutputError
from jido_cluster.exec.failures import MAX_DATA, check_size, invalid_input, invalid_output
from jido_cluster.exec.signature import Signature, params_type, read_signature
from jido_cluster.exec.stream import drained

__all__ = ["Work"]

_CORE_CONFIG: Final = CoreConfig(
    val_json_bytes="base64", ser_json_bytes="base64", ser_json_inf_nan="constants"
)
_PLAIN_TYPES: Final = (NoneType, bool, int, float, str)


class _Nothing:
    """No value has this type: a result that has no plain type never takes the fast path."""


class _Codec:
    """Validator and serializer of one type."""

    __slots__ = ("adapter", "to_json", "validate_json", "validate_python")

    def __init__(self, kind: Any) -> None:
        self.adapter: TypeAdapter[Any] = TypeAdapter(kind)
        schema = self.adapter.core_schema
        validator = SchemaValidator(schema, _CORE_CONFIG)
        self.validate_json = validator.validate_json
        self.validate_python = validator.validate_python
        dump = SchemaSerializer(schema, _CORE_CONFIG).to_json
        # An instance passes validation as it is, so that one changed since may no longer fit its
        # own type. Telling costs 0.8 us; plain data, which validation has just made, cannot differ.
        self.to_json = partial(dump, warnings="error") if _holds_instances(schema) else dump


def _holds_instances(schema: Any) -> bool:
    if isinstance(schema, dict):
        return schema.get("type") in {"model", "dataclass"} or any(
            _holds_instances(part) for part in schema.values()
        )
    return isinstance(schema, list | tuple) and any(_holds_instances(part) for part in schema)


class Work:
    """A function with its parameters and result. Never changes; any thread may use it.

    Attributes:
        name: Names it in errors and events.
        version: The author's version of it.
        function: What is called, on the loop or in a thread; a stream's takes, second, where its
            items go (see `jido_cluster.exec.stream`).
        is_async: Whether it runs on the loop.
        is_stream: Whether it gives items; then what is said of the result holds for each of them.
        parameters: Names of the parameters, in order; empty when any mapping will do.
        accepted: The names it takes without refusing the whole; None when others do no harm.
        context_name: The keyword that takes the `Context`; None when there is none.
        takes_context_last: Whether the `Context` is the last positional argument.
    """

    __slots__ = (
        "_lenient",
        "_params",
        "_plain_result",
        "_result",
        "_signature",
        "accepted",
        "context_name",
        "function",
        "is_async",
        "is_stream",
        "name",
        "parameters",
        "takes_context_last",
        "version",
    )

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str,
        version: str,
        parameters: tuple[str, ...],
        params: Any,
        result: Any,
        signature: Signature | None = None,
        takes_context_last: bool = False,
    ) -> None:
        self.name = name
        self.version = version
        self.is_stream = signature is not None and signature.is_stream
        self.function = drained(function) if self.is_stream else function
        self.is_async = iscoroutinefunction(self.function)
        self.parameters = parameters
        self.context_name = signature.context_name if signature is not None else None
        self.takes_context_last = takes_context_last
        self._signature = signature
        self._params = _codec(params, name, "parameters")
        self.accepted = _accepted(params, signature)
        self._lenient: _Codec | None = None
        result = NoneType if result is None else result
        self._result = _codec(result, name, "result")
        self._plain_result: type = result if result in _PLAIN_TYPES else _Nothing

    @classmethod
    def from_signature(
        cls,
        function: Callable[..., Any],
        *,
        name: str,
        version: str = "1",
        skip_first: bool = False,
        with_context: bool = False,
        may_stream: bool = False,
        localns: Mapping[str, Any] | None = None,
    ) -> "Work":
        """Work whose parameters are those of the function, given by name.

        Args:
            function: A plain function; all parameters annotated and reachable by name.
            name: Names it in errors and events.
            version: The author's version of it.
            skip_first: Leave out the first parameter (``self``).
            with_context: A parameter annotated `Context` takes the run's context.
            may_stream: An async generator will do.
            localns: Names that annotations may use besides those of the function's module.

        Raises:
            ConfigError: The signature does not fit; names the parameter.
        """
        signature = read_signature(
            function,
            name,
            skip_first=skip_first,
            with_context=with_context,
            may_stream=may_stream,
            localns=localns,
        )
        return cls(
            function,
            name=name,
            version=version,
            parameters=tuple(signature.types),
            params=params_type(signature, "Params", extra="forbid"),
            result=signature.result,
            signature=signature,
        )

    @classmethod
    def from_model(
        cls,
        function: Callable[..., Any],
        *,
        name: str,
        version: str = "1",
        params: type[BaseModel] | None,
        result: Any,
    ) -> "Work":
        """Work whose parameters are one object: a model, or any mapping when ``params`` is None.

        The function takes it, after what its caller puts first, and the `Context` last.

        Raises:
            ConfigError: ``params`` or ``result`` is no type that pydantic can check.
        """
        return cls(
            function,
            name=name,
            version=version,
            parameters=() if params is None else tuple(params.model_fields),
            params=dict[str, Any] if params is None else params,
            result=result,
            takes_context_last=True,
        )

    def load_params(self, data: bytes, *, ignore_unknown: bool = False) -> Any:
        """JSON bytes as checked parameters: a dict by name, or the model. Empty bytes mean none.

        Args:
            data: One JSON object.
            ignore_unknown: Leave out names the function does not know (delivered signals may have
                more than a handler wants), instead of refusing them.

        Raises:
            InvalidInputError: They do not fit; names parameter, value and what is expected.
        """
        if len(data) > MAX_DATA:
            check_size(data, f"{self.name}: parameters", InvalidInputError)
        codec = self._ignoring() if ignore_unknown else self._params
        try:
            return codec.validate_json(data or b"{}")
        except Exception as error:  # noqa: BLE001 - a user's validator may raise anything
            raise invalid_input(self.name, error, self.parameters) from None

    def check_params(self, params: Any, *, ignore_unknown: bool = False) -> Any:
        """A mapping (or the model itself) as checked parameters, leniently: "3" is an int.

        Raises:
            InvalidInputError: As `load_params`.
        """
        if isinstance(params, Mapping) and not isinstance(params, dict):
            params = dict(params)
        codec = self._ignoring() if ignore_unknown else self._params
        try:
            return codec.validate_python(params)
        except Exception as error:  # noqa: BLE001 - a user's validator may raise anything
            raise invalid_input(self.name, error, self.parameters) from None

    def dump_params(self, params: Any) -> bytes:
        """Parameters, checked, as JSON bytes; what has a default and is absent stays absent.

        Raises:
            InvalidInputError: As `load_params`; or they are no JSON, or exceed the limit.
        """
        checked = self.check_params(params)
        try:
            data = self._params.to_json(checked)
        except Exception as error:  # noqa: BLE001 - a user's serializer may raise anything
            raise invalid_input(self.name, error, self.parameters) from None
        if len(data) > MAX_DATA:
            check_size(data, f"{self.name}: parameters", InvalidInputError)
        return data

    def check_result(self, value: Any) -> Any:
        """The result as its declared type.

        Raises:
            InvalidOutputError: It does not fit; names the type and the path.
        """
        if type(value) is self._plain_result:
            return value
        try:
            return self._result.validate_python(value)
        except Exception as error:  # noqa: BLE001 - a user's validator may raise anything
            raise invalid_output(self.name, value, error) from None

    def dump_result(self, value: Any) -> bytes:
        """The result, checked, as JSON bytes.

        Raises:
            InvalidOutputError: As `check_result`; or it is no JSON, or exceeds the limit.
        """
        checked = value if type(value) is self._plain_result else self.check_result(value)
        try:
            data = self._result.to_json(checked)
        except Exception as error:  # noqa: BLE001 - a user's serializer may raise anything
            raise invalid_output(self.name, value, error) from None
        if len(data) > MAX_DATA:
            what = "an item" if self.is_stream else "the result"
            check_size(data, f"{self.name}: {what}", InvalidOutputError)
        return data

    def load_result(self, data: bytes) -> Any:
        """JSON bytes of a result as its declared type.

        Raises:
            InvalidOutputError: They do not fit: the sender has another definition of it.
        """
        try:
            return self._result.validate_json(data)
        except Exception as error:  # noqa: BLE001 - a user's validator may raise anything
            raise invalid_output(self.name, data, error) from None

    def input_schema(self) -> dict[str, Any]:
        """JSON schema of the parameters, with defaults and descriptions."""
        schema = self._params.adapter.json_schema()
        if self._signature is not None:
            for name, default in self._signature.defaults.items():
                schema["properties"][name].setdefault("default", _plain_or_text(default))
        return schema

    def output_schema(self) -> dict[str, Any]:
        """JSON schema of the result."""
        return self._result.adapter.json_schema(mode="serialization")

    @staticmethod
    def plain(data: bytes | None) -> Any:
        """JSON bytes as plain data; None for no bytes.

        Raises:
            InvalidInputError: They are no JSON.
        """
        if not data:
            return None
        try:
            return from_json(data)
        except ValueError as error:
            raise InvalidInputError(f"this is no JSON: {error}") from None

    def _ignoring(self) -> _Codec:
        if self._lenient is None:
            if self._signature is None:
                # A model says itself what becomes of unknown names.
                self._lenient = self._params
            else:
                lenient = params_type(self._signature, "Params", extra="ignore")
                self._lenient = _codec(lenient, self.name, "parameters")
        return self._lenient


def _accepted(params: Any, signature: Signature | None) -> tuple[str, ...] | None:
    if signature is not None:
        return None if signature.has_extra else tuple(signature.types)
    if not (isinstance(params, type) and issubclass(params, BaseModel)):
        return None
    config = params.model_config
    if config.get("extra") != "forbid":
        return None
    by_name = config.get("populate_by_name") or config.get("validate_by_name")
    names: list[str] = []
    for name, field in params.model_fields.items():
        alias = field.validation_alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
        if alias is None or by_name:
            names.append(name)
        names += [str(one.path[0] if isinstance(one, AliasPath) else one) for one in choices if one]
    return tuple(names)


def _codec(kind: Any, name: str, what: str) -> _Codec:
    try:
        return _Codec(kind)
    except Exception as error:
        raise ConfigError(
            f"{name}: the {what} cannot be checked: {type(error).__name__}: {error}"
        ) from error


def _plain_or_text(value: Any) -> Any:
    try:
        return from_json(to_json(value))
    except ValueError:
        return repr(value)
