"""A toolbox: actions and handlers that a language model may call, and no others.

    tools = Toolbox(Search, (Fetch, {"limit": 5}), partial(cart.call, Cart.add))
    answer = await provider.chat(messages, tools=tools.schemas())
    for call in answer.tool_calls:
        text = await tools.run(call.function.name, call.function.arguments)

What a model can get wrong (names, JSON, arguments) comes back to it as JSON that says what was
wrong; so does whatever the action raised. What the program gets wrong is raised.
"""

import asyncio
import difflib
import functools
import hashlib
import inspect
import re
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import from_json, to_json

from jido_cluster.errors import (
    ConfigError,
    InvalidInputError,
    JidoError,
    NotRegisteredError,
    UsageError,
)
from jido_cluster.exec.action import spec_of
from jido_cluster.exec.context import CURRENT, Context
from jido_cluster.exec.failures import check_size, wrap
from jido_cluster.exec.instruction import Instruction, instruction_of
from jido_cluster.exec.runner import context_of, options_of, run_spec
from jido_cluster.exec.tool_schema import coerce, plain_schema, strict_schema, without

if TYPE_CHECKING:
    from jido_cluster.signals.handler import Declaration

__all__ = ["Toolbox"]

# What OpenAI, Anthropic and Google all take as a function's name.
MAX_NAME: Final = 64
MAX_DESCRIPTION: Final = 1024  # OpenAI's limit, the lowest
_NOT_IN_NAMES: Final = re.compile(r"[^a-zA-Z0-9_-]")

# A model reads every character of an answer: details beyond this tell it nothing it could use.
MAX_MESSAGE: Final = 2_000
MAX_DETAILS: Final = 4_000

_AGENT_ID: Final = "agent_id"
_AGENT_ID_SCHEMA: Final[Mapping[str, Any]] = {
    "type": "string",
    "description": "The id of the agent that this is for.",
}

_Run = Callable[[bytes, Context], Coroutine[Any, Any, bytes]]


class Toolbox:
    """An allow-list for a language model. Never changes; safe to use from many tasks.

    Each of ``actions`` is one of these:

    - an action in any form of an `Instruction`: a class, a function with `@action`, a workflow, a
      registered name, or ``(Search, {"limit": 5})`` with context and options as you like;
    - ``partial(ref.call, Cart.add)``: a handler of one agent, by a ref of either kind;
    - ``Cart.add``: a handler of any agent that has it; the model names the agent by a parameter
      ``agent_id``, and the context of the run has to be one that runs in a cluster.

    Parameters set beforehand, by the instruction or the partial, are kept from the model.
    """

    def __init__(self, *actions: Any) -> None:
        """Takes the names of the tools from the actions', with what no provider takes replaced.

        Raises:
            ConfigError: One is neither action nor handler, or two have the same name.
            NotRegisteredError: Nothing here has the name that one is.
        """
        self._tools: dict[str, _Tool] = {}
        for index, one in enumerate(actions):
            tool = _tool_of(one, f"tool {index}")
            taken = self._tools.get(tool.name)
            if taken is not None:
                raise ConfigError(
                    f"a model could not tell {tool.source} from {taken.source}: both are named "
                    f"{tool.name!r}; leave one out, or wrap it in an action of another name",
                    name=tool.name,
                )
            self._tools[tool.name] = tool

    def __repr__(self) -> str:
        return f"<Toolbox {', '.join(self._tools)}>"

    def schemas(self, *, strict: bool = False) -> list[dict[str, Any]]:
        """What a provider is told of the tools, in the form OpenAI calls functions.

        Args:
            strict: The stricter form, whose arguments the provider guarantees to fit.

        Raises:
            ConfigError: ``strict`` cannot express the parameters of one; names it and the part.
        """
        return [tool.schema(strict=strict) for tool in self._tools.values()]

    async def run(self, name: str, arguments: str, context: Mapping[str, Any] | None = None) -> str:
        """Runs a tool and gives its result as JSON, or ``{"error": {...}}``.

        An error has ``kind``, ``message``, ``retryable`` and ``details``.

        Args:
            name: The name the model called.
            arguments: The arguments the model gave: JSON text.
            context: Data for ``ctx``, or a context whose limits the run shares.

        Raises:
            UsageError: ``arguments`` is no text; or a handler without a ref, and no cluster.
            InvalidInputError: ``context`` is no mapping.
        """
        if not isinstance(arguments, str):
            raise UsageError(
                f"arguments must be JSON text, not {type(arguments).__name__}: use json.dumps"
            )
        own = context_of(context)
        if any(tool.needs_cluster for tool in self._tools.values()):
            _ = own.cluster  # raises where there is none, whichever tool the model picked
        try:
            tool = self._find(name)
            result = await tool.run(tool.read(arguments), own)
        except JidoError as error:
            return _answer(error)
        return result.decode()

    def _find(self, name: str) -> "_Tool":
        tool = self._tools.get(name)
        if tool is not None:
            return tool
        known = list(self._tools)
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known)}"
        raise NotRegisteredError(f"there is no tool named {name!r}; {hint}", known=known)


class _Tool:
    """One tool: what the model is told of it, and how it runs."""

    __slots__ = ("_preset", "_schema", "description", "name", "needs_cluster", "run", "source")

    def __init__(
        self,
        source: str,
        description: str,
        schema: Mapping[str, Any],
        run: _Run,
        preset: Mapping[str, Any],
        *,
        needs_cluster: bool = False,
    ) -> None:
        self.source = source
        self.name = _tool_name(source)
        self.description = description[:MAX_DESCRIPTION]
        self.run = run
        self.needs_cluster = needs_cluster
        plain = plain_schema(schema)
        unknown = preset.keys() - plain.get("properties", preset).keys()
        if unknown:
            raise ConfigError(f"{source} has no parameter {min(unknown)!r} to be set beforehand")
        self._schema = without(plain, preset) if preset else plain
        try:
            self._preset: dict[str, Any] = from_json(to_json(preset))
        except ValueError as error:
            raise ConfigError(f"{source}: a parameter set beforehand is no JSON: {error}") from None

    def schema(self, *, strict: bool) -> dict[str, Any]:
        """The tool in the form OpenAI calls functions."""
        function: dict[str, Any] = {"name": self.name}
        if self.description:
            function["description"] = self.description
        parameters = {key: one for key, one in self._schema.items() if key != "description"}
        if strict:
            function["parameters"] = strict_schema(parameters, f"tool {self.name!r}")
            function["strict"] = True
        else:
            function["parameters"] = {"properties": {}, **parameters}
        # By way of JSON: the caller may change it, and it shares nothing with the next one's.
        copied: dict[str, Any] = from_json(to_json({"type": "function", "function": function}))
        return copied

    def read(self, arguments: str) -> bytes:
        """The arguments as one JSON object, with a model's habits undone.

        Raises:
            InvalidInputError: They are no JSON object, or set what is not the model's to set.
        """
        given = self._object(arguments)
        if not self._preset.keys().isdisjoint(given):
            name = min(self._preset.keys() & given.keys())
            raise InvalidInputError(f"{self.name}: {name}: unknown parameter", parameter=name)
        try:
            found = coerce(given, self._schema, self._schema.get("$defs", {}))
            return to_json({**found, **self._preset}, inf_nan_mode="constants")
        except (RecursionError, ValueError):
            raise InvalidInputError(f"{self.name}: the arguments are nested too deeply") from None

    def _object(self, arguments: str) -> dict[str, Any]:
        found: Any = arguments.strip().encode("utf-8", "replace") or None
        check_size(found or b"", self.name, InvalidInputError)
        # Some models give a text that holds the JSON of the object; once, never more.
        for _ in range(2):
            if isinstance(found, bytes | str):
                try:
                    found = from_json(found)
                except ValueError as error:
                    raise InvalidInputError(
                        f"{self.name}: the arguments are no JSON: {error}"
                    ) from None
        if found is None:
            return {}
        if not isinstance(found, dict):
            raise InvalidInputError(
                f"{self.name}: the arguments must be one JSON object, not {type(found).__name__}"
            )
        return found


def _tool_of(target: Any, place: str) -> _Tool:
    """The tool of an action or handler.

    Raises:
        ConfigError: It is neither; names the place.
    """
    from jido_cluster.signals.handler import find_declaration

    if isinstance(target, functools.partial):
        handler = target.args[0] if target.args else None
        declaration = find_declaration(handler)
        if declaration is None:
            raise ConfigError(
                f"{place}: {target!r} is no partial(ref.call, handler); to set parameters of an "
                f"action beforehand give (action, params)"
            )
        return _bound_tool(target, declaration)
    declaration = find_declaration(target)
    if declaration is not None:
        return _unbound_tool(declaration)
    return _action_tool(instruction_of(target, place))


def _action_tool(instruction: Instruction) -> _Tool:
    spec = spec_of(instruction.action)

    async def run(arguments: bytes, context: Context) -> bytes:
        if instruction.context:
            context.data = {**instruction.context, **context.data}
        found: bytes = await run_spec(
            spec,
            arguments,
            context,
            options_of(spec, instruction.options),
            as_json=True,
        )
        return found

    return _Tool(spec.name, spec.description, spec.input_schema(), run, instruction.params)


def _bound_tool(target: "functools.partial[Any]", declaration: "Declaration") -> _Tool:
    """The tool of ``partial(call, handler, *args, **kwargs)``."""
    from jido_cluster.signals.handler import name_arguments

    _check_callable(declaration)
    try:
        preset = name_arguments(declaration, target.args[1:], target.keywords)
    except InvalidInputError as error:
        raise _refuse(declaration, error.message) from None
    work, call = declaration.work, target.func

    async def run(arguments: bytes, context: Context) -> bytes:
        kwargs = work.load_params(arguments)
        if inspect.iscoroutinefunction(call):
            running = call(declaration.function, **kwargs)
        else:
            running = asyncio.to_thread(call, declaration.function, **kwargs)
        return work.dump_result(await _within(context, declaration.type, running))

    return _Tool(declaration.type, _described(declaration), work.input_schema(), run, preset)


def _unbound_tool(declaration: "Declaration") -> _Tool:
    """The tool of a handler whose agent the model names."""
    _check_callable(declaration)
    work = declaration.work
    if _AGENT_ID in work.parameters:
        raise _refuse(
            declaration,
            f"its parameter {_AGENT_ID!r} would hide the agent's id: give "
            f"partial(ref.call, {declaration.name}) instead",
        )

    async def run(arguments: bytes, context: Context) -> bytes:
        given = from_json(arguments)
        agent_id = given.pop(_AGENT_ID, None)
        if not isinstance(agent_id, str):
            raise InvalidInputError(f"{declaration.type}: {_AGENT_ID} is missing: give a text")
        kwargs = work.load_params(to_json(given, inf_nan_mode="constants"))
        ref = context.cluster.ref(agent_id)
        running = ref.call(declaration.function, **kwargs)
        return work.dump_result(await _within(context, declaration.type, running))

    schema = work.input_schema()
    schema["properties"] = {_AGENT_ID: dict(_AGENT_ID_SCHEMA), **schema["properties"]}
    schema["required"] = [_AGENT_ID, *schema.get("required", ())]
    return _Tool(declaration.type, _described(declaration), schema, run, {}, needs_cluster=True)


async def _within(context: Context, name: str, running: Coroutine[Any, Any, Any]) -> Any:
    """What ``running`` gives, as called by a run with this context: its deadline, its trace."""
    token = CURRENT.set(context)
    try:
        return await running
    except JidoError:
        raise
    except Exception as error:
        raise wrap(name, error, retryable=False) from error
    finally:
        CURRENT.reset(token)


def _check_callable(declaration: "Declaration") -> None:
    if declaration.is_stream:
        raise _refuse(declaration, "it is a stream: a model takes one result")
    if not declaration.is_callable:
        raise _refuse(
            declaration, f"it listens to the pattern {declaration.type!r}, not to one type"
        )


def _refuse(declaration: "Declaration", why: str) -> ConfigError:
    return ConfigError(f"{declaration.name} cannot be a tool: {why}")


def _described(declaration: "Declaration") -> str:
    text = inspect.cleandoc(declaration.function.__doc__ or "")
    return " ".join(text.split("\n\n")[0].split())


def _tool_name(source: str) -> str:
    """A name every provider takes; a long one keeps its end, where it says most."""
    name = _NOT_IN_NAMES.sub("_", source)
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(source.encode()).hexdigest()[:8]
    return f"{digest}_{name[len(digest) + 1 - MAX_NAME :]}"


def _answer(error: JidoError) -> str:
    """The error as JSON, small enough to be read by a model."""
    found = error.to_dict()
    details: dict[str, Any] = {}
    left = MAX_DETAILS
    for key, value in found["details"].items():
        size = len(to_json({key: value}))
        if size <= left:
            details[key] = value
            left -= size
    shown = {
        "kind": found["kind"],
        "message": found["message"][:MAX_MESSAGE],
        "retryable": found["retryable"],
        "details": details,
    }
    return to_json({"error": shown}).decode()
