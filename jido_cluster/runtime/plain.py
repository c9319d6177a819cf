"""From annotated types to plain data and back: how a message's fields are written down.

Theory. A message is a named tuple, and its annotations say what may stand in each field. From them
two functions are made once, at import: one that turns the tuple into what msgpack can write, and
one that turns what was read into the tuple, or refuses it. Nothing that comes out of the second has
a field of another type than the annotation says, so that a core never meets one.

Ballots and versions are bytes of fixed length, since every message has some: a struct writes them
in a tenth of a microsecond, and reads nothing but numbers within their ranges.
"""

import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from functools import partial
from struct import Struct
from typing import Any, Final, NamedTuple, Union, get_args, get_origin, get_type_hints

from jido_state.dots import VersionVector
from jido_state.versions import Ballot, Version

__all__ = ["BALLOT", "VERSION", "Form", "Forms", "maker"]

BALLOT: Final = Struct(">HIIH")
VERSION: Final = Struct(">HIIHQ")


class Form(NamedTuple):
    """How values of one type become plain data.

    Attributes:
        write: Turns a value into plain data; None when it is plain as it is.
        read: Turns plain data into a value; ValueError, TypeError or `struct.error` for data that
            are not of this form. It may change the lists that it is given.
        kind: The type that the data must have, when they are the value then; else None.
    """

    write: Callable[[Any], Any] | None
    read: Callable[[Any], Any]
    kind: type | None = None


def maker(cls: type) -> Callable[[Iterable[Any]], Any]:
    """Makes a named tuple of this class as its `_make` does, without counting the fields."""
    return partial(tuple.__new__, cls)


class Forms:
    """Makes forms, out of annotations.

    Args:
        codes: By class of named tuples the number under which it stands in a union.
        given: By annotation a form to be taken instead of a made one.
    """

    def __init__(self, codes: Mapping[type, int], given: Mapping[Any, Form]) -> None:
        self._codes = codes
        self._given = {**_PLAIN, **given}

    def of(self, annotation: Any) -> Form:
        """The form of a field's type, or of a class of named tuples.

        Raises:
            TypeError: There is none: it has to be written, or a number is missing.
        """
        if annotation in self._given:
            return self._given[annotation]
        origin, args = get_origin(annotation), get_args(annotation)
        if origin is tuple:
            if args[-1] is ...:
                return _sequence(self.of(args[0]), is_numbers=args[0] is int)
            return _fields([self.of(each) for each in args], tuple)
        if origin is Union or origin is types.UnionType:
            return self._either(args)
        if isinstance(annotation, type):
            if issubclass(annotation, Enum):
                return _enum(annotation)
            if issubclass(annotation, tuple) and hasattr(annotation, "_fields"):
                hints = get_type_hints(annotation)
                forms = [self.of(hints[name]) for name in annotation._fields]
                return _fields(forms, maker(annotation))
        raise TypeError(f"{annotation!r} has no form yet: add one")

    def _either(self, options: Sequence[Any]) -> Form:
        """One of several named tuples, or what may be None."""
        classes = [one for one in options if one is not type(None)]
        may_be_none = len(classes) < len(options)
        form = self.of(classes[0]) if len(classes) == 1 else self.union(classes)
        return _or_none(form) if may_be_none else form

    def union(self, classes: Iterable[type]) -> Form:
        """The form of any of these named tuples: its number, then its fields.

        Raises:
            TypeError: One of them has no number.
        """
        codes = self._codes
        missing = [cls for cls in classes if cls not in codes]
        if missing:
            raise TypeError(f"{missing} have no number yet: add them where the others have theirs")
        writes = {cls: (codes[cls], self.of(cls).write) for cls in classes}
        reads = {codes[cls]: self.of(cls).read for cls in classes}

        def write(value: Any) -> list[Any]:
            code, one_write = writes[type(value)]
            return [code, *one_write(value)]  # type: ignore[misc]

        def read(data: Any) -> Any:
            code = _list(data)[0] if data else None
            if type(code) is not int or code not in reads:
                raise ValueError("it has an unknown number")
            return reads[code](data[1:])

        return Form(write, read)


def _exactly(kind: type) -> Form:
    def read(data: Any) -> Any:
        if type(data) is not kind:
            raise TypeError(f"{type(data).__name__} instead of {kind.__name__}")
        return data

    return Form(None, read, kind)


def _read_float(data: Any) -> float:
    if type(data) is not float and type(data) is not int:
        raise TypeError(f"{type(data).__name__} instead of a number")
    return data


def _read_bool(data: Any) -> bool:
    if data is not True and data is not False:
        raise TypeError(f"{type(data).__name__} instead of a truth value")
    return data


_make_ballot: Final = maker(Ballot)
_make_version: Final = maker(Version)


def _write_ballot(ballot: Ballot) -> bytes:
    return BALLOT.pack(*ballot)


def _read_ballot(data: Any) -> Any:
    return _make_ballot(BALLOT.unpack(data))


def _write_version(version: Version) -> bytes:
    return VERSION.pack(*version)


def _read_version(data: Any) -> Any:
    return _make_version(VERSION.unpack(data))


def _read_vector(data: Any) -> VersionVector:
    for part in _list(data):
        for row in _list(part):
            if not all(type(each) is int for each in _list(row)) or len(row) < 2:
                raise TypeError("a version vector has something else than numbers")
    return VersionVector.from_data(data)


def _list(data: Any) -> list[Any]:
    if type(data) is not list:
        raise TypeError(f"{type(data).__name__} instead of a list")
    return data


_PLAIN: Final[dict[Any, Form]] = {
    int: _exactly(int),
    str: _exactly(str),
    bytes: _exactly(bytes),
    float: Form(None, _read_float),
    bool: Form(None, _read_bool),
    type(None): _exactly(type(None)),
    Ballot: Form(_write_ballot, _read_ballot),
    Version: Form(_write_version, _read_version),
    VersionVector: Form(VersionVector.to_data, _read_vector),
}


def _sequence(form: Form, *, is_numbers: bool) -> Form:
    one_write, one_read, _ = form

    def write(values: Sequence[Any]) -> list[Any]:
        return [one_write(value) for value in values]  # type: ignore[misc]

    def read(data: Any) -> tuple[Any, ...]:
        return tuple([one_read(each) for each in _list(data)])

    def read_numbers(data: Any) -> tuple[int, ...]:
        for each in _list(data):
            if type(each) is not int:
                raise TypeError(f"{type(each).__name__} instead of a number")
        return tuple(data)

    # A tuple of plain values is written as it is.
    return Form(write if one_write else None, read_numbers if is_numbers else read)


def _fields(forms: Sequence[Form], make: Callable[[list[Any]], Any]) -> Form:
    writes = [(place, form.write) for place, form in enumerate(forms) if form.write]
    size = len(forms)
    kinds = [(place, form.kind) for place, form in enumerate(forms) if form.kind]
    reads = [(place, form.read) for place, form in enumerate(forms) if not form.kind]

    def write(value: Sequence[Any]) -> list[Any]:
        data = list(value)
        for place, one_write in writes:
            data[place] = one_write(data[place])
        return data

    def read(data: Any) -> Any:
        if type(data) is not list or len(data) != size:
            raise TypeError(f"{type(data).__name__} instead of a list of {size}")
        for place, kind in kinds:
            if type(data[place]) is not kind:
                raise TypeError(f"{type(data[place]).__name__} instead of {kind.__name__}")
        for place, one_read in reads:
            data[place] = one_read(data[place])
        return make(data)

    return Form(write, read)


def _or_none(form: Form) -> Form:
    one_write, one_read, _ = form

    def write(value: Any) -> Any:
        return None if value is None else one_write(value)  # type: ignore[misc]

    def read(data: Any) -> Any:
        return None if data is None else one_read(data)

    return Form(write if one_write else None, read)


def _enum(cls: type[Enum]) -> Form:
    """By name: names are chosen to last, texts and numbers are not."""
    members = dict(cls.__members__)

    def read(data: Any) -> Enum:
        if type(data) is not str or data not in members:
            raise ValueError(f"{data!r} is no {cls.__name__}")
        return members[data]

    return Form(lambda value: value.name, read)
