"""The agent: a pydantic model whose fields are its state; its handlers run one turn at a time.

Theory. A turn runs on the live object. When it succeeds, the object's fields are written as JSON,
loaded again to prove that they can be, and become the committed state. When it fails, the object is
thrown away and the next turn starts from the committed bytes. So a half-done change is never seen,
and whatever is committed always loads.

A turn owns the object: `_jido_turn` names the turn that may assign to it. An object no turn has
ever owned (a plain `Counter(value=1)` in a unit test) is free.
"""

import difflib
import typing
from collections.abc import Awaitable, Mapping, Sequence
from contextvars import ContextVar
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self, Unpack
from weakref import WeakKeyDictionary

import pydantic
from pydantic import BaseModel, ConfigDict

from jido_cluster import upgrades
from jido_cluster.config import MAX_DATA, PartitionStrategy
from jido_cluster.errors import (
    ConfigError,
    HandlerNotFoundError,
    InvalidInputError,
    InvalidOutputError,
    NotRegisteredError,
    UsageError,
)
from jido_cluster.exec.needs import Needs
from jido_cluster.problems import first_problem, problems
from jido_cluster.signals.handler import (
    Declaration,
    find_declaration,
    handlers_of,
    is_no_stream,
    is_stream,
    sorted_handlers,
)

if TYPE_CHECKING:
    from jido_cluster.runtime.turn import TurnContext

Consistency = Literal["eventual", "session", "strong"]
Durability = Literal["disk", "memory", "none"]

current_turn: ContextVar["TurnContext | None"] = ContextVar("jido_turn", default=None)

# Sets an attribute past the agent's own checks. A turn owns the object while TURN is set to it;
# None seals the object: from then on nobody may assign to it.
assign: Final = object.__setattr__
TURN: Final = "_jido_turn"
_MAX_MATCHES: Final = 1024  # remembered look-ups of each type; a caller could send any type name


class AgentSpec:
    """What a definition of an agent comes to, compiled once.

    Invariant: `handlers` is sorted by priority, then specificity, both falling, then by
    registration; so the first match of a type is the one a call runs.
    """

    __slots__ = (
        "_calls",
        "agent_type",
        "consistency",
        "durability",
        "handlers",
        "has_on_start",
        "has_on_stop",
        "idle_timeout",
        "in_memory",
        "isolation",
        "max_mailbox",
        "name",
        "needs",
        "partition_strategy",
        "ray_options",
        "version",
        "virtual",
    )

    def __init__(self, agent_type: type["Agent"], keywords: "_Keywords") -> None:
        self.agent_type = agent_type
        self.name = keywords.name or f"{agent_type.__module__}.{agent_type.__qualname__}"
        self.version = keywords.version
        self.consistency = keywords.consistency
        self.durability = keywords.durability
        self.in_memory = keywords.durability == "memory"
        self.virtual = keywords.virtual
        self.isolation = keywords.isolation
        self.ray_options = keywords.ray_options
        self.needs = keywords.needs
        self.idle_timeout = keywords.idle_timeout
        self.max_mailbox = keywords.max_mailbox
        self.partition_strategy = keywords.partition_strategy
        self.has_on_start = agent_type.on_start is not Agent.on_start
        self.has_on_stop = agent_type.on_stop is not Agent.on_stop
        self.handlers = sorted_handlers(agent_type)
        self._calls: dict[str, Declaration] = {}

    def find_handler(self, type_: str) -> Declaration | None:
        """The one handler that this type names, a stream or not; None when no pattern matches."""
        found = self._calls.get(type_)
        if found is None:
            found = next((h for h in self.handlers if h.pattern.matches(type_)), None)
            if found is not None and len(self._calls) < _MAX_MATCHES:
                self._calls[type_] = found
        return found

    def handler_for(self, type_: str) -> Declaration:
        """As `find_handler`, when there has to be one, and for a call.

        Raises:
            HandlerNotFoundError: None matches; `details["known"]` lists the types that do.
            InvalidInputError: It is a stream.
        """
        found = self.find_handler(type_)
        if found is None:
            raise self._not_found(type_)
        if found.is_stream:
            raise is_stream(found)
        return found

    def stream_for(self, type_: str) -> Declaration:
        """As `handler_for`, for a stream.

        Raises:
            HandlerNotFoundError: None matches; `details["known"]` lists the types that do.
            InvalidInputError: It is no stream.
        """
        found = self.find_handler(type_)
        if found is None:
            raise self._not_found(type_)
        if not found.is_stream:
            raise is_no_stream(found)
        return found

    def _not_found(self, type_: str) -> HandlerNotFoundError:
        known = [handler.type for handler in self.handlers]
        near = difflib.get_close_matches(type_, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; it has {known}"
        message = f"agent type {self.name!r} has no handler for {type_!r}{hint}"
        return HandlerNotFoundError(message, type=type_, known=known)

    def handlers_for(self, type_: str) -> list[Declaration]:
        """All handlers a delivered signal of this type runs, in order; streams are not among them.

        Raises:
            HandlerNotFoundError: There is none.
            InvalidInputError: There is only a stream.
        """
        found = [one for one in self.handlers if one.pattern.matches(type_) and not one.is_stream]
        if not found:
            self.handler_for(type_)  # raises, naming what there is
        return found

    def dump(self, agent: "Agent") -> bytes:
        """The state as JSON bytes, at most 1 MiB.

        Raises:
            InvalidOutputError: A value does not encode, or the state is too large.
        """
        try:
            data = self.agent_type.__pydantic_serializer__.to_json(
                agent, by_alias=False, round_trip=True, warnings=False
            )
        except (ValueError, TypeError) as error:
            message = f"the state of {self.name!r} does not encode: {error}"
            raise InvalidOutputError(message) from error
        if len(data) > MAX_DATA:
            message = (
                f"the state of {self.name!r} is {len(data)} bytes, the limit is {MAX_DATA}; keep "
                "large data in files or a store, and its path or key in the state"
            )
            raise InvalidOutputError(message, size=len(data), limit=MAX_DATA)
        return data

    def load(self, data: bytes) -> "Agent":
        """A new object with the state of these bytes.

        Raises:
            InvalidOutputError: The bytes are not a valid state of this type.
        """
        try:
            agent: Agent = self.agent_type.__pydantic_validator__.validate_json(
                data, by_alias=False, by_name=True
            )
        except pydantic.ValidationError as error:
            message = f"the state of {self.name!r} does not validate: {first_problem(error)}"
            raise InvalidOutputError(message, errors=problems(error)) from error
        return agent

    def current_state(self, data: bytes, version: int) -> bytes:
        """A record's state in today's shape; see `upgrades`."""
        return data if version == self.version else upgrades.upgraded(self, data, version)

    def new_state(self, state: Mapping[str, Any]) -> bytes:
        """The bytes of a new agent's state.

        Raises:
            InvalidInputError: A field is unknown, missing, or does not validate.
        """
        try:
            agent = self.agent_type(**state)
        except pydantic.ValidationError as error:
            message = f"{self.name} cannot start with this state: {first_problem(error)}"
            raise InvalidInputError(message, errors=problems(error)) from error
        try:
            return self.dump(agent)
        except InvalidOutputError as error:
            raise InvalidInputError(error.message, **error.details) from error


class Agent(BaseModel):
    """Base of all agents: declare fields for the state and `@on` methods for the handlers.

    Class keywords say what the type is; all are optional.

    Args:
        name: Wire and storage name, unique in the cluster. Set it, or a moved module orphans the
            data stored under "module.Qualname".
        version: Of the state's shape, >= 1.
        consistency: Promise of reads: "eventual", "session" or "strong".
        durability: Where acknowledged state is kept: on the "disk" or in the "memory" of a majority
            (the latter not with consistency="strong"), or "none": in one process only.
        virtual: The first signal creates the agent from its field defaults.
        isolation: "shared" runs many agents in a process; "dedicated" gives it one of its own.
        ray_options: Options of the dedicated process's Ray actor; implies "dedicated".
        needs: What the node of a dedicated process must have.
        idle_timeout: Seconds, > 0, without a message until it leaves memory; None: never.
        max_mailbox: Messages, >= 1, that may wait; beyond them callers get `OverloadedError`.
        partition_strategy: Overrides the cluster's.

    Raises:
        ConfigError: When the class is made: see `docs/architecture.md`, "Definition errors".
    """

    __slots__ = ("_jido_turn",)
    __jido_plain__: ClassVar[frozenset[str]] = frozenset()  # fields that assignment only stores

    model_config = ConfigDict(
        extra="forbid",
        ser_json_bytes="base64",
        val_json_bytes="base64",
        # By default pydantic writes inf as null, which never loads again.
        ser_json_inf_nan="constants",
    )

    def __init_subclass__(
        cls,
        *,
        name: str | None = None,
        version: int = 1,
        consistency: Consistency = "eventual",
        durability: Durability = "disk",
        virtual: bool = False,
        isolation: Literal["shared", "dedicated"] = "shared",
        ray_options: Mapping[str, Any] | None = None,
        needs: Needs | None = None,
        idle_timeout: float | None = 900.0,
        max_mailbox: int = 1000,
        partition_strategy: PartitionStrategy | None = None,
        **unknown: Unpack[ConfigDict],
    ) -> None:
        """Check the definition as far as it can be before pydantic builds the fields."""
        if unknown:
            _refuse_keyword(cls, next(iter(unknown)))
        values: dict[str, Any] = {
            "name": name,
            "version": version,
            "consistency": consistency,
            "durability": durability,
            "virtual": virtual,
            "isolation": "dedicated" if ray_options else isolation,
            "ray_options": ray_options or None,
            "needs": needs,
            "idle_timeout": idle_timeout,
            "max_mailbox": max_mailbox,
            "partition_strategy": partition_strategy,
        }
        try:
            keywords = _Keywords(**values)
        except pydantic.ValidationError as error:
            message = f"{cls.__name__}: class keyword {first_problem(error)}"
            raise ConfigError(message) from error
        keywords.check(cls)
        _check_names(cls)
        super().__init_subclass__()
        type.__setattr__(cls, "__jido_keywords__", keywords)

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Compile and register the definition, now that its fields are known."""
        register_agent(cls)

    @property
    def ctx(self) -> "TurnContext":
        """The running turn.

        Raises:
            UsageError: No turn is running on this object.
        """
        turn: TurnContext | None = getattr(self, "_jido_turn", None)
        if turn is None or turn is not current_turn.get():
            message = (
                f"{type(self).__name__}.ctx exists only while a turn runs; to test a handler with "
                "a context use jido_cluster.testing.AgentHarness"
            )
            raise UsageError(message)
        return turn

    def on_start(self) -> Awaitable[None] | None:
        """Run at each activation, before the first turn; changes commit as a turn."""
        return None

    def on_stop(self) -> Awaitable[None] | None:
        """Run before passivation or deletion; best effort, never after a crash."""
        return None

    @classmethod
    def on_conflict(cls, versions: Sequence[Self], /) -> Self:
        """The state that comes of several, made without knowing of each other in a split network.

        It has to be the same whatever their order, and however often it is asked. Replicated fields
        (`jido_cluster.crdt`) are merged without it. A type that has none, or whose own raises, goes
        on with the latest of the states. Only "eventual" and "session" agents ever need it.

        Args:
            versions: At least two.
        """
        return versions[0]

    @classmethod
    def on_upgrade(
        cls,
        data: dict[str, Any],
        version: int,  # noqa: ARG003 - for those who override it
        /,
    ) -> dict[str, Any]:
        """The state in today's shape, from the JSON of an older `version` of the class.

        Args:
            data: Fields as they were stored; may be changed and returned.
            version: Of the class that stored them, lower than today's.
        """
        return data

    def __setattr__(self, name: str, value: Any) -> None:
        """Assign, if the running turn owns this object.

        Raises:
            UsageError: The turn is over, or it is read-only.
        """
        try:
            turn: TurnContext | None = self._jido_turn  # type: ignore[attr-defined]  # a slot pydantic cannot see
        except AttributeError:  # never owned: a plain object
            pass
        else:
            if turn is None or turn is not current_turn.get():
                message = (
                    f"{type(self).__name__}.{name} was assigned after its turn had ended; await "
                    "what a handler starts, or send the agent a signal"
                )
                raise UsageError(message)
            if turn.read_only:
                message = f"{type(self).__name__}.{name} was assigned in a read_only handler"
                raise UsageError(message)
            if name in self.__class__.__jido_plain__:
                # What pydantic would do, found out once instead of at every assignment.
                self.__dict__[name] = value
                return
        super().__setattr__(name, value)


class _Keywords(pydantic.BaseModel):
    """Class keywords of one agent type, with their ranges."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    name: str | None
    version: int
    consistency: Consistency
    durability: Durability
    virtual: bool
    isolation: Literal["shared", "dedicated"]
    ray_options: dict[str, Any] | None
    needs: Needs | None
    idle_timeout: float | None
    max_mailbox: int
    partition_strategy: PartitionStrategy | None

    def check(self, cls: type) -> None:
        """Raise ConfigError for the first value out of range."""
        is_kept = self.consistency != "strong" or self.durability != "memory"
        rules = (
            (self.name is None or _is_name(self.name), "name", "1 to 200 visible characters"),
            (self.version >= 1, "version", "an integer >= 1"),
            (self.idle_timeout is None or self.idle_timeout > 0, "idle_timeout", "seconds > 0"),
            (self.max_mailbox >= 1, "max_mailbox", "an integer >= 1"),
            (self.needs is None or self.isolation == "dedicated", "needs", _NEEDS_RULE),
            (is_kept, "durability", '"disk" for consistency="strong"'),
        )
        for holds, keyword, rule in rules:
            if not holds:
                value = getattr(self, keyword)
                message = f"{cls.__name__}: class keyword {keyword} is {value!r}; use {rule}"
                raise ConfigError(message)


_NEEDS_RULE: Final = 'it together with isolation="dedicated" (shared agents live with their shard)'
_KEYWORDS: Final = tuple(_Keywords.model_fields)

# Names that pydantic or this class gives a meaning; a field or handler may not take them.
_RESERVED: Final = frozenset(name for name in dir(Agent) if not name.startswith("_"))

_agents: dict[str, AgentSpec] = {}

# Not kept on the class: validators do not pickle, and a class that is sent by value takes its
# attributes along.
_specs: "WeakKeyDictionary[type, AgentSpec]" = WeakKeyDictionary()


def register_agent(agent_type: type[Agent]) -> AgentSpec:
    """Compile a definition and make it known by its name in this process.

    A class that arrives by value (from another process's `__main__`) was not made here and has to
    be registered by hand. The same module and name again replaces the older definition.

    Raises:
        ConfigError: The definition is wrong, or its name belongs to another class.
    """
    _check_fields(agent_type)
    keywords: _Keywords = agent_type.__jido_keywords__  # type: ignore[attr-defined]
    for handler in handlers_of(agent_type):
        handler.compile(agent_type)
    spec = AgentSpec(agent_type, keywords)
    if spec.virtual:
        try:
            spec.load(spec.new_state({}))
        except (InvalidInputError, InvalidOutputError) as error:
            message = f"{agent_type.__name__} is virtual, but its defaults fail: {error.message}"
            raise ConfigError(message) from error
    known = _agents.get(spec.name)
    if known is not None and _identity(known.agent_type) != _identity(agent_type):
        message = (
            f"agent name {spec.name!r} belongs to {'.'.join(_identity(known.agent_type))}; "
            f"give {'.'.join(_identity(agent_type))} another one: class ...(Agent, name=...)"
        )
        raise ConfigError(message)
    if not agent_type.model_config.get("validate_assignment"):
        fields = agent_type.model_fields.items()
        agent_type.__jido_plain__ = frozenset(n for n, f in fields if not f.frozen)
    _agents[spec.name] = spec
    _specs[agent_type] = spec
    return spec


def spec_of(agent_type: object, /) -> AgentSpec:
    """The compiled definition of an agent class.

    Raises:
        ConfigError: It is no subclass of `Agent`.
    """
    spec = _specs.get(agent_type) if isinstance(agent_type, type) else None
    if spec is None:
        message = f"{agent_type!r} is not an agent type; pass a subclass of jido_cluster.Agent"
        raise ConfigError(message)
    return spec


def find_agent(name: str, /) -> AgentSpec | None:
    """The definition registered under this name in this process."""
    return _agents.get(name)


def known_agents() -> list[str]:
    """Names of the types registered in this process, sorted."""
    return sorted(_agents)


def agent_named(name: str, /) -> AgentSpec:
    """The definition registered under this name.

    Raises:
        NotRegisteredError: This process knows no such type.
    """
    spec = _agents.get(name)
    if spec is None:
        message = f"agent type {name!r} is not known in this process; import the module it is in"
        raise NotRegisteredError(message, known=sorted(_agents))
    return spec


def replace_fields(agent: Agent, loaded: Agent) -> None:
    """Make the object's fields those of another one of its type; private attributes stay."""
    assign(agent, "__dict__", loaded.__dict__)


def _identity(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__


def _is_name(name: str) -> bool:
    return 0 < len(name) <= 200 and name.isprintable() and " " not in name


def _refuse_keyword(cls: type, keyword: str) -> typing.NoReturn:
    known = [*_KEYWORDS, *ConfigDict.__annotations__]
    near = difflib.get_close_matches(keyword, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_KEYWORDS)}"
    message = f"{cls.__name__}: unknown class keyword {keyword!r}; {hint}"
    raise ConfigError(message)


def _check_names(cls: type[Agent]) -> None:
    """Refuse what pydantic only warns about, or overlooks."""
    fields = vars(cls).get("__annotations__", {})
    handlers = {name for name, value in vars(cls).items() if find_declaration(value)}
    for name in (*fields, *sorted(handlers)):
        if name in _RESERVED or name.startswith("model_"):
            kind = "handler" if name in handlers else "field"
            message = (
                f"{cls.__name__}: the {kind} {name!r} has the name of an attribute of Agent or "
                "pydantic.BaseModel; choose another one"
            )
            raise ConfigError(message)
    for name, value in vars(cls).items():
        inner = getattr(value, "fget", None) or getattr(value, "__func__", value)
        if find_declaration(inner) is not None and not isinstance(value, FunctionType):
            message = (
                f"{cls.__name__}.{name} is a {type(value).__name__}; @on belongs on a plain method"
            )
            raise ConfigError(message)
    inherited_fields = {name for base in cls.__mro__[1:] for name in _own_fields(base)}
    inherited_handlers = {
        name
        for base in cls.__mro__[1:]
        for name, value in vars(base).items()
        if find_declaration(value)
    }
    for name in sorted(handlers & (inherited_fields | fields.keys())):
        message = f"{cls.__name__}: {name!r} is both a field and a handler; rename one"
        raise ConfigError(message)
    for name in sorted(inherited_handlers & fields.keys()):
        message = f"{cls.__name__}: field {name!r} replaces an inherited handler; rename it"
        raise ConfigError(message)
    for name in sorted(inherited_handlers & vars(cls).keys() - handlers):
        message = f"{cls.__name__}.{name} overrides a handler; repeat its @on, or rename it"
        raise ConfigError(message)


def _own_fields(base: type) -> Sequence[str]:
    return tuple(vars(base).get("__annotations__", {})) if issubclass(base, Agent) else ()


def _check_fields(cls: type[Agent]) -> None:
    if cls.__pydantic_generic_metadata__["parameters"]:
        message = f"{cls.__name__} has unbound type parameters; an agent's state has fixed types"
        raise ConfigError(message)
    if not cls.__pydantic_complete__:
        try:
            cls.model_rebuild(_parent_namespace_depth=0)
        except (pydantic.errors.PydanticUndefinedAnnotation, NameError) as error:
            message = f"{cls.__name__}: a field's annotation does not resolve: {error}"
            raise ConfigError(message) from error
    keywords: _Keywords = cls.__jido_keywords__  # type: ignore[attr-defined]
    for name, field in cls.model_fields.items():
        if keywords.virtual and field.is_required():
            message = (
                f"{cls.__name__} is virtual, so its first signal creates it: field {name!r} needs "
                "a default"
            )
            raise ConfigError(message)
        if field.exclude:
            message = (
                f"{cls.__name__}: field {name!r} has exclude=True and would not be kept; make it a "
                f"private attribute, _{name}"
            )
            raise ConfigError(message)


__all__ = [
    "TURN",
    "Agent",
    "AgentSpec",
    "agent_named",
    "assign",
    "current_turn",
    "find_agent",
    "known_agents",
    "register_agent",
    "replace_fields",
    "spec_of",
]
