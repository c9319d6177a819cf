"""Replicated fields: parts of an agent's state that merge, whoever changed them while split apart.

    class Cart(Agent):
        items: ORSet[str] = ORSet()

Theory. An agent with `partition_strategy="continue_all"` may go on at several sides of a split
network. When these meet again, a replicated field holds what was done to it at all of them: counts
add up, of an addition and a concurrent removal the addition stays, of two values that were set the
later one is seen (or both, in an `MVRegister`). All other fields go by the agent's `on_conflict`.

Each change is made in the name of the running turn, which is what tells it from all others. Outside
of a turn the name is always the same: a value that was made there and is changed in two places
does not merge well.
*Source*: Shapiro et al., A comprehensive study of convergent and commutative replicated data types
(2011). The values themselves are `jido_state.crdt`'s.
"""

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, ClassVar, Final, Generic, Self, TypeVar, get_args

from pydantic import GetCoreSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema, core_schema

from jido_cluster.agent import current_turn
from jido_cluster.errors import InvalidInputError, UsageError
from jido_state import crdt
from jido_state.crdt import CrdtFormatError, CrdtValueError
from jido_state.dots import Acting, Actor, Dot
from jido_state.hlc import Stamp

__all__ = ["GCounter", "LWWMap", "LWWRegister", "MVRegister", "ORSet", "PNCounter", "Replicated"]

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")

_LOCAL: Final[Dot] = Acting(0xFFFF, 0, 0).dot(1)  # no node has this index
_ANY: Final = TypeAdapter[Any](Any)


class Replicated:
    """Base of all replicated fields: a value that changes in place. No constructor arguments.

    Compares by what it shows. Unhashable, since it changes.
    """

    __slots__ = ("_adapters", "_value")
    __hash__ = None  # type: ignore[assignment]
    _empty: ClassVar[Any]

    def __init__(self) -> None:
        self._value = self._empty
        self._adapters: tuple[TypeAdapter[Any], ...] = ()

    def merged(self, others: Iterable[Self]) -> Self:
        """What this one and the others have come to; none of them is changed."""
        made = self._with(self._value)
        for other in others:
            made._value = made._value.merge(other._value)
        return made

    def folded(self, actors: Iterable[Actor]) -> Self:
        """The same, with actors that are over named no more; this one is not changed."""
        return self._with(self._value.fold(actors))

    def _with(self, value: Any) -> Self:
        made = type(self)()
        made._value = value
        made._adapters = self._adapters
        return made

    def _shown(self) -> Any:
        """What it shows, comparable."""
        return self._value.value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self._shown() == other._shown()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._shown()!r})"

    def __copy__(self) -> Self:
        return self._with(self._value)

    def __deepcopy__(self, _: Any) -> Self:
        return self._with(self._value)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_load, (type(self), self._value.to_bytes()))

    # Items: as JSON has them inside, as the annotation says outside.

    def _adapter(self, place: int) -> TypeAdapter[Any]:
        return self._adapters[place] if place < len(self._adapters) else _ANY

    def _inside(self, item: Any, place: int = 0) -> Any:
        adapter = self._adapter(place)
        try:
            return adapter.dump_python(adapter.validate_python(item), mode="json")
        except ValueError as error:
            raise _misfit(self, item, error) from error

    def _outside(self, item: Any, place: int = 0) -> Any:
        return self._adapter(place).validate_python(item)

    # How pydantic sees it: as the text of its bytes.

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """As text in JSON, checked when it is read; an object of this class otherwise."""
        adapters = tuple(TypeAdapter[Any](one) for one in get_args(source))

        def read(value: Any) -> Any:
            if isinstance(value, cls):
                made = value
            elif isinstance(value, str):
                made = _load(cls, base64.b64decode(value, validate=True))
            else:
                raise ValueError(f"{type(value).__name__} is no {cls.__name__}")  # noqa: TRY004 - pydantic's
            made._adapters = adapters
            return made

        return core_schema.no_info_plain_validator_function(
            read,
            serialization=core_schema.plain_serializer_function_ser_schema(
                _text, when_used="json", return_schema=core_schema.str_schema()
            ),
        )


def _text(value: Replicated) -> str:
    return base64.b64encode(value._value.to_bytes()).decode()


def _load(cls: type[Any], data: bytes) -> Any:
    made = cls()
    try:
        made._value = type(cls._empty).from_bytes(data)
    except CrdtFormatError as error:
        raise ValueError(str(error)) from error
    return made


def _misfit(owner: Replicated, item: Any, error: Exception) -> InvalidInputError:
    message = f"{repr(item)[:80]} does not fit into a {type(owner).__name__}: {error}"
    return InvalidInputError(message)


def _dot() -> Dot:
    """In whose name a change is made."""
    turn = current_turn.get()
    if turn is None or not turn.is_running:
        return _LOCAL
    if turn.read_only:
        message = "a replicated field was changed in a read_only handler"
        raise UsageError(message)
    return tuple(turn.version)


def _actor() -> Actor:
    return _dot()[:-1]


def _stamp() -> Stamp:
    turn = current_turn.get()
    now = turn.now.timestamp() if turn is not None and turn.is_running else 0.0
    return Stamp(int(now * 1000), 0, _dot())


class GCounter(Replicated):
    """A counter that only grows."""

    __slots__ = ()
    _empty = crdt.GCounter()

    @property
    def value(self) -> int:
        """The sum of all increments."""
        shown: int = self._value.value
        return shown

    def increment(self, by: int = 1) -> None:
        """Count up.

        Raises:
            InvalidInputError: `by` is no integer >= 0, or too large.
        """
        self._count("increment", by)

    def _count(self, way: str, by: int) -> None:
        try:
            self._value = getattr(self._value, way)(_actor(), by)
        except (CrdtValueError, TypeError) as error:
            raise _misfit(self, by, error) from error


class PNCounter(GCounter):
    """A counter that goes up and down."""

    __slots__ = ()
    _empty = crdt.PNCounter()

    def decrement(self, by: int = 1) -> None:
        """Count down; raises as `increment`."""
        self._count("decrement", by)


class ORSet(Replicated, AbstractSet[T]):
    """A set: of an `add` and a concurrent `discard` of one item the `add` stays.

    Items are of JSON's shape, or of the type that the annotation says. Its order is the same
    everywhere.
    """

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]
    _empty = crdt.ORSet()

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> Any:
        """What `|`, `&` and the like give: a plain set."""
        return set(it)

    def _shown(self) -> list[T]:
        return [self._outside(item) for item in self._value.value]

    def __contains__(self, item: object) -> bool:
        try:
            return bool(self._value.has(self._inside(item)))
        except ValueError:
            return False

    def __iter__(self) -> Iterator[T]:
        return iter(self._shown())

    def __len__(self) -> int:
        return len(self._value.dots.entries)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ORSet):
            return Replicated.__eq__(self, other)
        return isinstance(other, AbstractSet) and set(self._shown()) == set(other)

    def add(self, item: T) -> None:
        """Put the item in.

        Raises:
            InvalidInputError: It does not fit.
        """
        inside = self._inside(item)
        try:
            self._value = self._value.add(_actor(), inside)
        except CrdtValueError as error:
            raise _misfit(self, item, error) from error

    def discard(self, item: T) -> None:
        """Take the item out, if it is in."""
        _dot()
        if item in self:
            self._value = self._value.discard(self._inside(item))


class LWWRegister(Replicated, Generic[T]):
    """One value, None before it is set; of two that were set concurrently, the later one."""

    __slots__ = ()
    _empty = crdt.LWWRegister()

    @property
    def value(self) -> T | None:
        """The value; a new object each time."""
        return self._shown()

    def _shown(self) -> T | None:
        inside = self._value.value
        return None if inside is None else self._outside(inside)

    def set(self, value: T) -> None:
        """Set the value.

        Raises:
            InvalidInputError: It does not fit.
        """
        inside = self._inside(value)
        try:
            self._value = self._value.set(_stamp(), inside)
        except CrdtValueError as error:
            raise _misfit(self, value, error) from error


class LWWMap(Replicated, Mapping[K, V]):
    """A map: of two values of a key that were set concurrently the later one is seen.

    Of a `set` and a concurrent `discard` of one key the `set` stays.
    """

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]
    _empty = crdt.LWWMap()

    def _shown(self) -> list[tuple[K, V]]:
        pairs = self._value.value
        return [(self._outside(key), self._outside(value, 1)) for key, value in pairs]

    def __getitem__(self, key: K) -> V:
        inside = self._inside(key)
        if not self._value.has(inside):
            raise KeyError(key)
        found: V = self._outside(self._value.get(inside), 1)
        return found

    def __iter__(self) -> Iterator[K]:
        return iter([key for key, _ in self._shown()])

    def __len__(self) -> int:
        return len(self._value.dots.entries)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, LWWMap):
            return Replicated.__eq__(self, other)
        return isinstance(other, Mapping) and dict(self._shown()) == dict(other)

    def set(self, key: K, value: V) -> None:
        """Set a key's value.

        Raises:
            InvalidInputError: One of them does not fit.
        """
        name, inside = self._inside(key), self._inside(value, 1)
        try:
            self._value = self._value.set(_stamp(), name, inside)
        except CrdtValueError as error:
            raise _misfit(self, (key, value), error) from error

    def discard(self, key: K) -> None:
        """Take a key out, if it is in."""
        _dot()
        self._value = self._value.discard(self._inside(key))


class MVRegister(Replicated, Generic[T]):
    """A register that shows all values that were set concurrently, until one is set on top."""

    __slots__ = ()
    _empty = crdt.MVRegister()

    @property
    def values(self) -> Sequence[T]:
        """The values, distinct, in the same order everywhere; empty before the first `set`."""
        return self._shown()

    def _shown(self) -> list[T]:
        return [self._outside(item) for item in self._value.value]

    def set(self, value: T) -> None:
        """Set one value in place of all that are seen.

        Raises:
            InvalidInputError: It does not fit.
        """
        inside = self._inside(value)
        try:
            self._value = self._value.set(_actor(), inside)
        except CrdtValueError as error:
            raise _misfit(self, value, error) from error
