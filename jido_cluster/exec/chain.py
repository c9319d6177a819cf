"""Running actions one after another, each fed with what came before it.

    values = await chain([Validate, (Process, {"format": "json"}), Save], {"data": "input"})

The values are one mapping. It starts as ``params``, and the result of each step (a mapping, the
fields of a model or dataclass, nothing for None) is merged into it. What a step has been given for
itself, as ``format`` here, is that step's alone and wins over the values.
"""

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from jido_cluster.errors import ChainError, ConfigError, JidoError
from jido_cluster.exec.context import CURRENT, Context
from jido_cluster.exec.failures import wrap
from jido_cluster.exec.instruction import given
from jido_cluster.exec.options import RunOptions, check_options
from jido_cluster.exec.retry import is_retryable
from jido_cluster.exec.runner import context_of
from jido_cluster.exec.steps import Step, cannot_merge, fields_of, merge, prepare

__all__ = ["Continue", "Halt", "chain"]


@dataclass(frozen=True)
class Continue:
    """An interrupt's answer: the chain goes on, with the fields of ``value`` as its values."""

    value: Any


@dataclass(frozen=True)
class Halt:
    """An interrupt's answer: the chain ends here, and returns ``value`` as it is."""

    value: Any


Verdict = Continue | Halt
Interrupt = Callable[[dict[str, Any], Context], Verdict | Awaitable[Verdict]]


async def chain(
    steps: Sequence[Any],
    params: Mapping[str, Any] | None = None,
    context: Mapping[str, Any] | None = None,
    *,
    interrupt: Interrupt | None = None,
    **options: Unpack[RunOptions],
) -> dict[str, Any]:
    """Runs the steps in order and returns the values: ``params`` and every result, merged.

    All steps are checked before the first one runs. A step that knows only certain names (a
    function, a model that forbids extra fields) gets only those of the values.

    Args:
        steps: Actions in any form of `Instruction`. A step's own context and options win over those
            of the chain.
        params: The values at the start.
        context: Data for the `ctx` of every step.
        interrupt: Called as ``interrupt(values, ctx)`` after each step, the last one too; sync
            (then quick: it runs on the loop) or async. ``Continue(x)`` goes on with x as the
            values, ``Halt(x)`` returns x.
        **options: As for `run`, for each step: ``timeout`` limits every attempt of a step, not the
            whole. The deadline of a run around the chain limits it all.

    Raises:
        ConfigError: A step is no action, its result cannot be merged, or an option is unknown or
            ill; nothing ran.
        InvalidInputError: ``params``, ``context`` or those of a step are no mapping; nothing ran.
        NotRegisteredError: A step is a name that nothing here has; nothing ran.
        ChainError: A step (or the interrupt after it) failed: ``.action`` names it, ``.index`` is
            its place, ``.error`` says why, and ``.results`` are the values so far. A chain of the
            steps from ``.index`` on takes up the work with them (from the next on, when it was the
            interrupt that failed).
    """
    checked = check_options(options)
    prepared: list[Step] = []
    if isinstance(steps, str) or not isinstance(steps, Sequence):
        raise ConfigError(f"steps must be a list of actions, not {steps!r}")
    for index, item in enumerate(steps):
        step = prepare(item, index, checked)
        if step.single:
            raise cannot_merge(step, index)
        prepared.append(step)
    values = dict(given(params, "params"))
    own = context_of(context)
    own.attempt = 1
    for index, step in enumerate(prepared):
        try:
            merge(values, await step.run(values, own), step)
            if interrupt is not None:
                verdict = await _ask(interrupt, values, own)
                if isinstance(verdict, Halt):
                    halted: dict[str, Any] = verdict.value
                    return halted
                values = _values_of(verdict)
        except JidoError as error:
            raise _failed(step, index, error, values) from error
    return values


async def _ask(interrupt: Interrupt, values: dict[str, Any], context: Context) -> Verdict:
    """What the interrupt says of a copy of the values; runs inside the chain's context.

    Raises:
        ConfigError: It says something else.
        ExecutionError: It raised, and not one of ours.
    """
    outer = CURRENT.get()
    CURRENT.set(context)
    try:
        verdict: Any = interrupt(dict(values), context)
        if inspect.isawaitable(verdict):
            verdict = await verdict
    except JidoError:
        raise
    except (Exception, SystemExit) as error:
        raise wrap("interrupt", error, retryable=is_retryable(error)) from error
    finally:
        CURRENT.set(outer)
    if isinstance(verdict, Continue | Halt):
        return verdict
    raise ConfigError(f"interrupt must return Continue(x) or Halt(x), not {type(verdict).__name__}")


def _values_of(verdict: Continue) -> dict[str, Any]:
    found = None if verdict.value is None else fields_of(verdict.value)
    if found is None:
        kind = type(verdict.value).__name__
        raise ConfigError(f"Continue takes the values to go on with, a mapping, not {kind}")
    return dict(found)


def _failed(step: Step, index: int, error: JidoError, values: dict[str, Any]) -> ChainError:
    """The error of a chain whose step ``index`` has failed; as retryable as what failed."""
    name = step.spec.name
    return ChainError(
        f"step {index} ({name}) failed: {error.message}",
        action=name,
        index=index,
        error=error,
        results=values,
    )
