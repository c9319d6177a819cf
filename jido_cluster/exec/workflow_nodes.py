"""What workflows are made of: the parts an author writes, and the nodes that run.

A node adds to the values: `run` gives what is to be merged into them. In a parallel group it ends
with something under a name of its own: `result`. For most nodes the two are the same.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from jido_cluster.errors import ConfigError, JidoError
from jido_cluster.exec.context import Context
from jido_cluster.exec.failures import wrap
from jido_cluster.exec.retry import is_retryable
from jido_cluster.exec.steps import Step, cannot_merge, merge, prepare

__all__ = ["Branch", "Node", "Parallel", "Series", "Single", "StepError", "Test", "compile_step"]

Test = Callable[[dict[str, Any], Context], bool | Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Branch:
    """One of two steps; made by `Workflow.branch`."""

    test: Test
    then: Any
    otherwise: Any


@dataclass(frozen=True, slots=True)
class Parallel:
    """Steps at once, by the name of what they end with; made by `Workflow.parallel`."""

    members: Mapping[str, Any]
    max_concurrency: int | None


class StepError(Exception):
    """What failed inside a workflow, and where; never seen outside of it."""

    def __init__(self, path: str, action: str, error: JidoError) -> None:
        super().__init__(path)
        self.path = path
        self.action = action
        self.error = error


@dataclass(frozen=True, slots=True)
class Single:
    """One action, ready to run."""

    path: str
    step: Step

    async def result(self, values: Mapping[str, Any], ctx: Context) -> Any:
        """What the action returns."""
        try:
            return await self.step.run(values, ctx)
        except JidoError as error:
            raise StepError(self.path, self.step.spec.name, error) from error

    async def run(self, values: Mapping[str, Any], ctx: Context) -> dict[str, Any]:
        """What it adds to the values."""
        added: dict[str, Any] = {}
        result = await self.result(values, ctx)
        try:
            merge(added, result, self.step)
        except JidoError as error:
            raise StepError(self.path, self.step.spec.name, error) from error
        return added


@dataclass(frozen=True, slots=True)
class Series:
    """Steps one after another."""

    nodes: "tuple[Node, ...]"

    async def run(self, values: Mapping[str, Any], ctx: Context) -> dict[str, Any]:
        """What they add to the values, together."""
        added: dict[str, Any] = {}
        for node in self.nodes:
            added.update(await node.run({**values, **added}, ctx))
        return added

    result = run


@dataclass(frozen=True, slots=True)
class Choice:
    """One of two series, as the test says."""

    path: str
    test: Test
    then: Series
    otherwise: Series

    async def run(self, values: Mapping[str, Any], ctx: Context) -> dict[str, Any]:
        """What the chosen one adds to the values."""
        chosen = self.then if await self._holds(values, ctx) else self.otherwise
        return await chosen.run(values, ctx)

    result = run

    async def _holds(self, values: Mapping[str, Any], ctx: Context) -> bool:
        name = getattr(self.test, "__qualname__", repr(self.test))
        try:
            found: Any = self.test(dict(values), ctx)
            if inspect.isawaitable(found):
                found = await found
        except JidoError as error:
            raise StepError(self.path, name, error) from error
        except (Exception, SystemExit) as error:
            wrapped = wrap(f"{self.path} ({name})", error, retryable=is_retryable(error))
            raise StepError(self.path, name, wrapped) from error
        if isinstance(found, bool):
            return found
        message = f"the test must return True or False, not {type(found).__name__}"
        raise StepError(self.path, name, ConfigError(message))


@dataclass(frozen=True, slots=True)
class Group:
    """Steps at once."""

    members: "Mapping[str, Node]"
    max_concurrency: int | None

    async def run(self, values: Mapping[str, Any], ctx: Context) -> dict[str, Any]:
        """What each ends with, by its name, in the order they are listed."""
        limit = self.max_concurrency
        slots = nullcontext() if limit is None else asyncio.Semaphore(limit)

        async def member(node: "Node") -> Any:
            async with slots:
                return await node.result(values, ctx)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = {
                    name: group.create_task(member(node), name=name)
                    for name, node in self.members.items()
                }
        except BaseExceptionGroup as failures:
            # The first failure has cancelled the others: what they raised since is its consequence.
            raise failures.exceptions[0] from None
        return {name: task.result() for name, task in tasks.items()}

    result = run


Node = Single | Series | Choice | Group


def compile_step(item: Any, place: str, path: str, *, merges: bool = True) -> Node:
    """The node that ``item`` stands for.

    Args:
        item: A step, as the module lists them.
        place: Where it stands, for error messages of the definition.
        path: Where it stands, for error messages of a run.
        merges: Whether its result is merged into the values.
    """
    if isinstance(item, Branch):
        then = _series(item.then, f"{place}.then", f"{path}.then")
        otherwise = _series(item.otherwise, f"{place}.otherwise", f"{path}.otherwise")
        return Choice(path, item.test, then, otherwise)
    if isinstance(item, Parallel):
        members = {
            name: compile_step(member, f"{place}.{name}", f"{path}.{name}", merges=False)
            for name, member in item.members.items()
        }
        return Group(members, item.max_concurrency)
    if isinstance(item, list):
        return _series(item, place, path)
    step = prepare(item, place)
    if merges and step.single:
        raise cannot_merge(step, place)
    return Single(path, step)


def _series(item: Any, place: str, path: str) -> Series:
    """A list of steps, or one step, as a series; an empty tuple is none."""
    if item == ():
        return Series(())
    if not isinstance(item, list):
        return Series((compile_step(item, place, path),))
    return Series(
        tuple(
            compile_step(each, f"{place}[{index}]", f"{path}[{index}]")
            for index, each in enumerate(item)
        )
    )
