"""What an author says about an action beside its code, and the specification it comes to.

The definition is plain data and stays with the class or function, so that it travels where the
class is sent by value. The specification holds compiled validators, is made in each process, and is
found by the class, or by name in the registry.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel
from pydantic_core import to_json

from jido_cluster.errors import ConfigError, NotRegisteredError
from jido_cluster.exec import options as run_options
from jido_cluster.exec.failures import invalid_input
from jido_cluster.exec.needs import Needs
from jido_cluster.exec.options import ResolvedOptions, RunOptions, check_options, nearest, resolve
from jido_cluster.exec.work import Work
from jido_cluster.ids import check_id

__all__ = ["ActionSpec", "Definition", "find_action", "register", "registered_actions"]

OWN_KEYWORDS: Final = (
    "name",
    "description",
    "category",
    "tags",
    "version",
    "executor",
    "needs",
)
EXECUTORS: Final = ("auto", "process")


@dataclass(frozen=True, slots=True)
class Definition:
    """The keywords of an action, checked."""

    name: str
    description: str = ""
    category: str = ""
    tags: tuple[str, ...] = ()
    version: str = "1"
    executor: str = "auto"
    needs: Needs | None = None
    options: RunOptions = field(default_factory=RunOptions)


def define(
    target: Any,
    *,
    name: str | None,
    description: str,
    category: str,
    tags: object,
    version: object,
    executor: object,
    needs: object,
    options: Mapping[str, Any],
) -> Definition:
    """The definition of ``target``, a class or function.

    Raises:
        ConfigError: A keyword is unknown or its value is ill; names keyword, value and remedy.
    """
    owner = f"action {target.__qualname__}"
    for keyword in options:
        known = (*OWN_KEYWORDS, *RunOptions.__annotations__)
        if keyword not in known:
            raise ConfigError(f"{owner}: unknown keyword {keyword!r}; {nearest(keyword, known)}")
    if name is None:
        name = f"{target.__module__}.{target.__qualname__}"
    else:
        _check_name(name, owner)
    if executor not in EXECUTORS:
        raise ConfigError(f"{owner}: executor={executor!r}: it must be one of {EXECUTORS}")
    if executor == "process":
        _check_importable(target, owner)
    if not isinstance(tags, list | tuple) or not all(isinstance(tag, str) for tag in tags):
        raise ConfigError(f"{owner}: tags={tags!r}: it must be a list of texts")
    if not isinstance(version, str) or not version:
        raise ConfigError(f"{owner}: version={version!r}: it must be a text, as in version='2'")
    if needs is not None and not isinstance(needs, Needs):
        raise ConfigError(f"{owner}: needs={needs!r}: it must be a Needs(...)")
    return Definition(
        name=name,
        description=description or _first_paragraph(target),
        category=category,
        tags=tuple(tags),
        version=version,
        executor=executor,
        needs=needs,
        options=check_options(options, owner=owner),
    )


class ActionSpec:
    """One action, compiled. Never changes.

    Attributes:
        target: The class or function.
        definition: What its author said.
        name: Its name on the wire; also `version`, `description`, `category`, `tags`, `needs` and
            `executor` stand here as in the definition.
        options: The author's run options; the process's configuration and the defaults where
            the author is silent.
        work: The code and its validators.
        compensation: `on_error`, where the class has one.
        output: Applied to the result of each attempt.
        params_model: What a class takes its parameters as; None for any mapping, and of functions.
        is_class: Whether each run makes an instance, which its hooks share.
        checks_input_by_hooks: Whether `on_before_validate` or `on_after_validate` are there.
    """

    __slots__ = (
        "_configured",
        "_options",
        "category",
        "checks_input_by_hooks",
        "compensation",
        "definition",
        "description",
        "executor",
        "is_class",
        "name",
        "needs",
        "output",
        "params_model",
        "tags",
        "target",
        "version",
        "work",
    )

    def __init__(
        self,
        target: Any,
        definition: Definition,
        work: Work,
        *,
        compensation: Work | None = None,
        output: Callable[[Any], Any] | None = None,
        params_model: type[BaseModel] | None = None,
        checks_input_by_hooks: bool = False,
    ) -> None:
        self.target = target
        self.definition = definition
        self.name = definition.name
        self.version = definition.version
        self.description = definition.description
        self.category = definition.category
        self.tags = definition.tags
        self.executor = definition.executor
        self.needs = definition.needs
        self._configured: RunOptions | None = None
        self._options = run_options.DEFAULTS
        self.work = work
        self.compensation = compensation
        self.output = output
        self.params_model = params_model
        self.is_class = isinstance(target, type)
        self.checks_input_by_hooks = checks_input_by_hooks

    def __repr__(self) -> str:
        return f"<ActionSpec {self.name} version={self.version}>"

    @property
    def options(self) -> ResolvedOptions:
        """How to run it, when the call says nothing."""
        configured = run_options.CONFIGURED
        if self._configured is not configured:
            self._options = resolve(configured, self.definition.options, {})
            self._configured = configured
        return self._options

    def input_schema(self) -> dict[str, Any]:
        """JSON schema of the parameters."""
        return self.work.input_schema()

    def output_schema(self) -> dict[str, Any]:
        """JSON schema of the result."""
        return self.work.output_schema()

    async def arguments(self, params: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Checked arguments for one run, from a model, a mapping, or None.

        Raises:
            InvalidInputError: They do not fit.
            ExecutionError: A hook failed.
        """
        if not self.is_class:
            return (), self.work.check_params({} if params is None else params)
        instance = self.target()
        if params is None:
            params = {}
        if self.checks_input_by_hooks:
            params = await _if_awaitable(instance.on_before_validate(params))
            params = self.work.check_params(params)
            params = await _if_awaitable(instance.on_after_validate(params))
        else:
            params = self.work.check_params(params)
        return (instance, params), {}

    def dump_params(self, params: Any) -> bytes:
        """Parameters as JSON bytes, for another process; checked here unless a hook comes first.

        Raises:
            InvalidInputError: They do not fit, or are no JSON.
        """
        if params is None:
            params = {}
        if not self.checks_input_by_hooks or isinstance(params, BaseModel):
            return self.work.dump_params(params)
        try:
            return to_json(params, inf_nan_mode="constants", bytes_mode="base64")
        except ValueError as error:
            raise invalid_input(self.name, error, self.work.parameters) from None

    async def load_arguments(self, data: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Checked arguments for one run, from JSON bytes.

        Raises:
            InvalidInputError: They do not fit.
            ExecutionError: A hook failed.
        """
        if self.checks_input_by_hooks:
            instance = self.target()
            params = await _if_awaitable(instance.on_before_validate(Work.plain(data) or {}))
            # Back to bytes, as JSON's rules differ from Python's (base64, say).
            checked = self.work.load_params(to_json(params, inf_nan_mode="constants"))
            return (instance, await _if_awaitable(instance.on_after_validate(checked))), {}
        params = self.work.load_params(data)
        return ((self.target(), params), {}) if self.is_class else ((), params)


_ACTIONS: dict[str, ActionSpec] = {}


def register(spec: ActionSpec) -> None:
    """Makes an action known by its name in this process.

    One of the same module and qualified name replaces the earlier (a notebook cell run again).

    Raises:
        ConfigError: Another action has the name.
    """
    known = _ACTIONS.get(spec.name)
    if known is not None and _home(known.target) != _home(spec.target):
        raise ConfigError(
            f"action name {spec.name!r} belongs to {_home(known.target)} already; "
            f"give {_home(spec.target)} another one"
        )
    _ACTIONS[spec.name] = spec


def find_action(name: str) -> ActionSpec:
    """The action of this name.

    Raises:
        NotRegisteredError: This process knows none; its module is not imported here.
    """
    spec = _ACTIONS.get(name)
    if spec is None:
        raise NotRegisteredError(
            f"no action named {name!r} is registered here: import its module, or name the module "
            f"in ClusterConfig(modules=...)",
            name=name,
            known=sorted(_ACTIONS),
        )
    return spec


def registered_actions() -> list[ActionSpec]:
    """All actions of this process, by name."""
    return [_ACTIONS[name] for name in sorted(_ACTIONS)]


async def _if_awaitable(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _home(target: Any) -> str:
    return f"{target.__module__}.{target.__qualname__}"


def _check_importable(target: Any, owner: str) -> None:
    """A worker process finds an action by importing its module."""
    if target.__module__ == "__main__":
        raise ConfigError(
            f"{owner}: executor='process' needs a module that worker processes can import, which "
            f"__main__ is not: move the action to a module of its own"
        )
    if "<locals>" in target.__qualname__:
        raise ConfigError(
            f"{owner}: executor='process' needs an action that importing {target.__module__} "
            f"defines: move it out of the function it is in"
        )


def _check_name(name: object, owner: str) -> None:
    try:
        check_id(name)
    except ValueError as error:
        raise ConfigError(f"{owner}: name={error}") from None


def _first_paragraph(target: Any) -> str:
    # Not inspect.getdoc, which inherits: the base class's text says nothing of this action.
    text = inspect.cleandoc(target.__doc__ or "")
    return " ".join(text.split("\n\n")[0].split())
