"""An instruction: an action with everything it needs to run, as a value; and its short forms.

Wherever actions are listed (chains, plans, workflows), each of these is one:

    Resize                                              an action class
    resize                                              a function with @action
    "resize"                                            the registered name of either
    (Resize, {"width": 640})                            with parameters
    (Resize, {"width": 640}, {"user": "ann"})           and context
    (Resize, {"width": 640}, None, {"timeout": 5.0})    and run options
    Instruction(Resize, {"width": 640})                 the same, in full
"""

import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from jido_cluster.errors import ConfigError, InvalidInputError, NotRegisteredError
from jido_cluster.exec.action import ActionSpec, spec_of
from jido_cluster.exec.options import RunOptions, check_options

__all__ = ["Instruction", "given", "instruction_of", "instructions_of", "named", "spec_at"]

_SHORT = reprlib.Repr()
_SHORT.maxother = _SHORT.maxstring = 80
_short = _SHORT.repr

Place = int | str
"""Where an item stands, for error messages: its index, or words of its own."""


@dataclass(frozen=True)
class Instruction:
    """What to run: an action, its parameters, its context and its options."""

    action: Any
    params: Mapping[str, Any] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)
    options: RunOptions = field(default_factory=RunOptions)


def instruction_of(item: Any, place: Place) -> Instruction:
    """The instruction that ``item``, in any of the forms above, stands for; everything checked.

    Its action is the class or function, also where a name was given.

    Raises:
        ConfigError: It has none of these forms, names no action, or an option is unknown or ill.
        InvalidInputError: Its parameters or context are no mapping.
        NotRegisteredError: Nothing here has the name.
    """
    parts: tuple[Any, ...]
    if isinstance(item, Instruction):
        parts = (item.action, item.params, item.context, item.options)
    elif isinstance(item, tuple):
        if not 1 <= len(item) <= 4:
            raise ConfigError(
                f"{named(place)}: a tuple of {len(item)} parts; write "
                f"(action, params, context, options), from the right as short as you like"
            )
        parts = (*item, None, None, None)[:4]
    else:
        return Instruction(spec_at(item, place).target)
    action, params, context, options = parts
    where = named(place)
    if options is not None and not isinstance(options, Mapping):
        raise ConfigError(f"{where}: options must be a mapping, not {_short(options)}")
    return Instruction(
        spec_at(action, place).target,
        dict(given(params, f"{where}: params")),
        dict(given(context, f"{where}: context")),
        check_options(options or {}, owner=where),
    )


def instructions_of(
    items: Iterable[Any], *, allowed: Iterable[Any] | None = None
) -> list[Instruction]:
    """The instructions that ``items`` stand for, in their order.

    Args:
        items: Each in one of the forms above.
        allowed: The actions there may be, as classes, functions or names; None for any.

    Raises:
        ConfigError: As `instruction_of`, or an action is not among the allowed; names all of them.
        InvalidInputError: As `instruction_of`.
        NotRegisteredError: As `instruction_of`.
    """
    found = [instruction_of(item, index) for index, item in enumerate(items)]
    if allowed is None:
        return found
    names = sorted({spec_of(action).name for action in allowed})
    listed = [(index, spec_of(one.action).name) for index, one in enumerate(found)]
    refused = [(index, name) for index, name in listed if name not in names]
    if refused:
        which = ", ".join(f"{name} (step {index})" for index, name in refused)
        raise ConfigError(
            f"not allowed: {which}; allowed: {', '.join(names) or 'nothing'}",
            refused=[name for _, name in refused],
            allowed=names,
        )
    return found


def spec_at(action: Any, place: Place) -> ActionSpec:
    """`spec_of`, with the place in its error messages."""
    try:
        return spec_of(action)
    except (ConfigError, NotRegisteredError) as error:
        raise type(error)(f"{named(place)}: {error.message}", **error.details) from None


def given(value: Any, what: str) -> Mapping[str, Any]:
    """What somebody gave as a mapping: of a model the fields that were set, of None nothing.

    Raises:
        InvalidInputError: It is neither; names ``what`` and the value.
    """
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return value
    if isinstance(value, BaseModel):
        # Its defaults are nobody's wish, and would win over values that are.
        return {name: part for name, part in value if name in value.model_fields_set}
    raise InvalidInputError(f"{what} must be a mapping, not {_short(value)}")


def named(place: Place) -> str:
    """The place in words."""
    return f"step {place}" if isinstance(place, int) else place
