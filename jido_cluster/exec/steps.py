"""One step among several: prepared before any of them runs, fed with what came before it.

The values that pass along a chain or workflow are one mapping. A step gets of them what it knows,
then its own parameters, which win; its result is merged into the values for the next.
"""

import dataclasses
from collections.abc import Coroutine, Mapping
from functools import lru_cache
from typing import Any, Final

from pydantic import BaseModel

from jido_cluster.errors import ConfigError, InvalidOutputError
from jido_cluster.exec.action import spec_of
from jido_cluster.exec.context import Context
from jido_cluster.exec.definition import ActionSpec
from jido_cluster.exec.instruction import Instruction, Place, instruction_of, named, spec_at
from jido_cluster.exec.options import ResolvedOptions
from jido_cluster.exec.runner import options_of, run_spec

__all__ = ["Step", "cannot_merge", "check_concurrency", "fields_of", "merge", "prepare"]

_SCALARS: Final = (bool, int, float, str)
_IN_PARTS: Final = (tuple, Instruction)
_NOTHING: Final[Mapping[str, Any]] = {}


class Step:
    """An action with its part of the input, ready to run; never changes.

    Attributes:
        spec: The action.
        params: Its own parameters; they win over what came before.
        context: Its own context data; they win over those of the whole.
        options: Its run options, decided.
        accepted: `Work.accepted`: names it takes; None when others do no harm.
        single: The type its result is declared to be, when that has no names to merge it by; else
            empty.
    """

    __slots__ = ("accepted", "context", "options", "params", "single", "spec")

    def __init__(
        self,
        spec: ActionSpec,
        options: ResolvedOptions,
        params: Mapping[str, Any] = _NOTHING,
        context: Mapping[str, Any] = _NOTHING,
    ) -> None:
        self.spec = spec
        self.params = params
        self.context = context
        self.options = options
        self.accepted = spec.work.accepted
        kind = spec.work._plain_result
        self.single = kind.__name__ if kind in _SCALARS else ""

    def run(
        self, values: Mapping[str, Any], context: Context, more: Mapping[str, Any] = _NOTHING
    ) -> Coroutine[Any, Any, Any]:
        """The run of this step inside ``context``, to be awaited.

        Args:
            values: What came before; copied. An action that refuses unknown names (a function, a
                model that forbids extra fields) does not get those of them.
            context: The context of the whole, which it inherits.
            more: Further parameters of its own, known only now; they win over `params`.
        """
        if self.accepted is None:
            params = dict(values)
        else:
            params = {name: values[name] for name in self.accepted if name in values}
        if self.params:
            params.update(self.params)
        if more:
            params.update(more)
        data = {**context.data, **self.context} if self.context else context.data
        return run_spec(self.spec, params, context.for_run(data), self.options)


def prepare(item: Any, place: Place, options: Mapping[str, Any] = _NOTHING) -> Step:
    """The step that ``item`` stands for, with all that can be checked before it runs.

    Args:
        item: An action, in any form that `instruction_of` takes.
        place: Where it stands, for error messages.
        options: Checked run options that hold where the step says nothing.

    Raises:
        JidoError: As `instruction_of`.
    """
    if isinstance(item, _IN_PARTS):
        instruction = instruction_of(item, place)
        spec = spec_of(instruction.action)
        resolved = options_of(spec, {**options, **instruction.options})
        return Step(spec, resolved, instruction.params, instruction.context)
    spec = spec_at(item, place)
    # Without `_bare` the step would be the same one, made anew: no test can tell, but a clock can.
    return Step(spec, options_of(spec, options)) if options else _bare(spec)  # pragma: no mutate


@lru_cache(maxsize=256)
def _bare(spec: ActionSpec) -> Step:
    """The step of an action alone; kept, as a chain of short actions would notice making it."""
    return Step(spec, spec.options)


def merge(values: dict[str, Any], result: Any, step: Step) -> None:
    """Merges the step's result into the values.

    Raises:
        InvalidOutputError: The result has no names to merge it by; the values are as before.
    """
    # The common case, without a detour: `fields_of` would give the same.
    if type(result) is dict:  # pragma: no mutate
        values.update(result)
        return
    found = fields_of(result)
    if found is None:
        kind = type(result).__name__
        raise InvalidOutputError(f"{step.spec.name}: {_no_names(kind)}", type=kind)
    values.update(found)


def fields_of(value: Any) -> Mapping[str, Any] | None:
    """A mapping itself, the fields of a model or dataclass, nothing for None; else None.

    Fields keep their values as they are, so that what comes next gets the very objects.
    """
    if isinstance(value, Mapping):
        return value
    if isinstance(value, BaseModel):
        return dict(value)
    if value is None:
        return _NOTHING
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None


def cannot_merge(step: Step, place: Place) -> ConfigError:
    """The error of a step whose result is declared to be a `Step.single` value."""
    return ConfigError(f"{named(place)}: {step.spec.name}: {_no_names(step.single)}")


def _no_names(kind: str) -> str:
    return (
        f"its result, of type {kind}, cannot be merged into the next step's input; "
        f"return a mapping or a model"
    )


def check_concurrency(limit: object) -> None:
    """Does nothing when ``limit`` is a number of things that may run at once, or None.

    Raises:
        ConfigError: It is neither.
    """
    if limit is None or (isinstance(limit, int) and not isinstance(limit, bool) and limit >= 1):
        return
    raise ConfigError(f"max_concurrency={limit!r}: it must be a whole number >= 1, or None")
