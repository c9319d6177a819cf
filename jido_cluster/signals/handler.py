"""Handler declarations: what `@on` writes on a function, and how a call names its arguments.

`@on` returns the function itself, so that it stays typed, overridable and callable in a unit test.
The declaration beside it is compiled once, when the agent's class is made.
"""

import inspect
import sys
from collections.abc import Callable, Mapping
from types import FrameType, FunctionType
from typing import Any, Final, TypeVar

from jido_cluster.errors import ConfigError, HandlerNotFoundError, InvalidInputError
from jido_cluster.exec.work import Work
from jido_cluster.signals.pattern import Pattern

F = TypeVar("F", bound=Callable[..., Any])
ON: Final = "__jido_on__"  # the attribute that holds a handler's declaration
MAX_PRIORITY: Final = 100  # as Jido's router: -100 to 100


class Declaration:
    """One handler: the pattern it listens to, its options, and its compiled work.

    `is_callable` says whether `call` may name it: a pattern has no one type to call, and a stream
    has no one result.

    Invariant: `work` is set before the class that holds the handler can be used.
    """

    __slots__ = (
        "function",
        "is_callable",
        "is_stream",
        "namespace",
        "pattern",
        "positional",
        "priority",
        "read_only",
        "timeout",
        "type",
        "work",
    )

    def __init__(
        self,
        function: Callable[..., Any],
        pattern: Pattern,
        *,
        read_only: bool,
        timeout: float | None,
        priority: int,
        namespace: Mapping[str, Any],
    ) -> None:
        self.function = function
        self.pattern = pattern
        self.type = pattern.text
        self.read_only = read_only
        self.timeout = timeout
        self.priority = priority
        self.namespace = namespace
        self.work: Work
        self._look_at_function()

    def __getstate__(self) -> dict[str, Any]:
        """Without validators and enclosing names: they are made anew where a class arrives."""
        kept = ("function", "pattern", "type", "read_only", "timeout", "priority")
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        self.namespace = {}
        self._look_at_function()

    def _look_at_function(self) -> None:
        self.is_stream = inspect.isasyncgenfunction(self.function)
        self.is_callable = self.pattern.is_exact and not self.is_stream
        self.positional: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The function's qualified name, for messages."""
        return self.function.__qualname__

    def compile(self, owner: type) -> None:
        """Resolve the annotations and build the validators.

        Raises:
            ConfigError: The signature cannot be a handler's, or an annotation does not resolve.
        """
        self.work = Work.from_signature(
            self.function,
            name=self.type,
            skip_first=True,
            may_stream=True,
            localns={owner.__name__: owner, **self.namespace},
        )
        code = self.function.__code__
        self.positional = code.co_varnames[1 : code.co_argcount]


def on(
    type: str, /, *, read_only: bool = False, timeout: float | None = None, priority: int = 0
) -> Callable[[F], F]:
    """Make a method of an `Agent` the handler of a signal type.

    Args:
        type: Literal type, or a pattern with `*` (one segment) and `**` (any number).
        read_only: The handler gets a copy of the last committed state, may run beside a turn, and
            changes nothing.
        timeout: Seconds, > 0; the default deadline of calls to it. None: the cluster's.
        priority: -100 to 100; higher runs first among several that match.

    Raises:
        ConfigError: A value is out of range, or the thing decorated is not a plain function.
    """
    pattern = Pattern(type)
    if timeout is not None and not (_is_number(timeout) and 0 < timeout < float("inf")):
        message = f"@on({type!r}): timeout is {timeout!r}; use seconds > 0"
        raise ConfigError(message)
    if not (_is_number(priority) and -MAX_PRIORITY <= priority <= MAX_PRIORITY):
        message = f"@on({type!r}): priority is {priority!r}; use -{MAX_PRIORITY} to {MAX_PRIORITY}"
        raise ConfigError(message)
    namespace = _enclosing_locals(sys._getframe(1))

    def decorate(function: F) -> F:
        if not isinstance(function, FunctionType):
            message = f"@on({type!r}) decorates a plain method, not {function!r}; put it outermost"
            raise ConfigError(message)
        if function.__code__.co_argcount == 0:
            message = (
                f"{function.__qualname__} takes no parameter; a handler is a method: (self, ...)"
            )
            raise ConfigError(message)
        if hasattr(function, ON):
            message = f"{function.__qualname__} has two @on; write one method for each signal type"
            raise ConfigError(message)
        if inspect.isasyncgenfunction(function) and not pattern.is_exact:
            message = f"@on({type!r}): a stream is asked for by its one type; it takes no pattern"
            raise ConfigError(message)
        declaration = Declaration(
            function,
            pattern,
            read_only=read_only,
            timeout=timeout,
            priority=priority,
            namespace=namespace,
        )
        setattr(function, ON, declaration)
        return function

    return decorate


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def find_declaration(function: object, /) -> Declaration | None:
    """The declaration `@on` left on a function or bound method, if any."""
    return getattr(function, ON, None)


def declaration_of(function: object, /) -> Declaration:
    """The declaration of a handler.

    Raises:
        HandlerNotFoundError: The function has no `@on`.
    """
    found = find_declaration(function)
    if found is None:
        name = getattr(function, "__qualname__", repr(function))
        message = f"{name} is not a handler: decorate it with @on, or give a signal type"
        raise HandlerNotFoundError(message, handler=name)
    return found


def is_stream(declaration: Declaration) -> InvalidInputError:
    """What whoever calls a stream, or sends it a signal, gets."""
    message = f"handler {declaration.name!r} yields items, not one result; use ref.stream(...)"
    return InvalidInputError(message)


def is_no_stream(declaration: Declaration) -> InvalidInputError:
    """What whoever asks any other handler for a stream gets."""
    message = f"handler {declaration.name!r} returns one result; use ref.call(...)"
    return InvalidInputError(message)


def handlers_of(cls: type) -> list[Declaration]:
    """The handlers of a class and its bases, in order of registration, overridden ones replaced."""
    found: dict[str, Declaration] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            declaration = find_declaration(value)
            if declaration is not None:
                found[name] = declaration
    return list(found.values())


def sorted_handlers(cls: type) -> tuple[Declaration, ...]:
    """The handlers of a class, the one that a call prefers first.

    Raises:
        ConfigError: Two listen to the same type.
    """
    handlers = handlers_of(cls)
    by_type: dict[str, Declaration] = {}
    for handler in handlers:
        other = by_type.setdefault(handler.type, handler)
        if other is not handler:
            message = (
                f"{cls.__name__}: {other.name} and {handler.name} both listen to "
                f"{handler.type!r}; give one of them another type"
            )
            raise ConfigError(message)
    ranked = sorted(
        enumerate(handlers),
        key=lambda item: (-item[1].priority, _falling(item[1].pattern.specificity), item[0]),
    )
    return tuple(handler for _, handler in ranked)


def _falling(specificity: tuple[int, ...]) -> tuple[int, ...]:
    # The closing 1 ranks a pattern's own prefix behind it: every segment is <= 0 when negated.
    return (*(-rank for rank in specificity), 1)


def name_arguments(
    declaration: Declaration, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments as a mapping from parameter name to value.

    Raises:
        InvalidInputError: Too many positional arguments, or one given twice.
    """
    if not args:
        return kwargs
    if len(args) > len(declaration.positional):
        message = (
            f"{declaration.name}() takes {len(declaration.positional)} positional arguments, "
            f"{len(args)} were given"
        )
        raise InvalidInputError(message)
    named = dict(zip(declaration.positional, args, strict=False))
    if not kwargs:  # most calls
        return named
    twice = named.keys() & kwargs.keys()
    if twice:
        message = f"{declaration.name}() got parameter {min(twice)!r} twice"
        raise InvalidInputError(message)
    return {**named, **kwargs}


def _enclosing_locals(class_body: FrameType) -> Mapping[str, Any]:
    """Names an annotation may use beside the module's: those of functions around the class."""
    found: dict[str, Any] = {}
    frame = class_body.f_back
    while frame is not None and frame.f_globals is class_body.f_globals:
        if frame.f_locals is frame.f_globals:
            break
        found = {**frame.f_locals, **found}
        frame = frame.f_back
    return found
