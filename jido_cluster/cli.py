"""The command line, `jido-cluster`: start a runtime, look at it, call its agents, stop it.

A command gathers what it has to say while it is connected and prints it afterwards, so that with
`--json` exactly one document, an object, reaches standard output; it has the key "error" if and
only if the command failed. Whatever else speaks meanwhile goes to standard error. Exit codes: 0,
1 (it failed), 2 (the command line makes no sense).

Only `start` deploys the runtime unasked: a look at a cluster should not change it.
"""

import contextlib
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from pydantic_core import from_json

from jido_cluster.cli_output import describe, fail, print_table, reporting, show, to_text
from jido_cluster.config import ClusterConfig
from jido_cluster.connections import LOCAL, resolve_address
from jido_cluster.errors import (
    ClusterUnavailableError,
    ConfigError,
    ExecutionError,
    UsageError,
)
from jido_cluster.sync_cluster import Cluster
from jido_cluster.types import MovePlan, NodeInfo

EXAMPLE = "examples.transcoding"
DEFAULT_CLUSTER = "default"

# Plain help and usage errors: they read the same on a terminal, in a log and in a test.
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="ADDRESS",
        help="Where Ray is: host:port, or auto for this machine; local for a cluster without Ray "
        "that ends with the command. Else $JIDO_ADDRESS, $RAY_ADDRESS, auto.",
        show_default=False,
    ),
]
Name = Annotated[
    str, typer.Option("--cluster", metavar="NAME", help="Which runtime on that Ray cluster.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Start = Annotated[
    bool,
    typer.Option(
        "--start/--no-start",
        help="Whether to start the runtime if it is not running; else that is an error.",
    ),
]


@app.callback()
def main() -> None:
    """Agents on a Ray cluster: start the runtime, look at it, call agents, stop it."""


# ------------------------------------------------------------------ the runtime


@app.command()
def start(
    *,
    address: Address = None,
    cluster: Name = DEFAULT_CLUSTER,
    modules: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE",
            help="A module that defines agents or actions, importable here and on every node. "
            "May be given many times.",
        ),
    ] = None,
    hosts_per_node: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Shard host processes on each node; else one for each core, at most 8. Counts "
            "only when the runtime is not running yet.",
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where each node keeps its state, on a local disk; else it ends with its Ray "
            "node. Counts only when the runtime is not running yet.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Start the runtime on every Ray node.

    Nothing changes if it is running already.
    """
    with reporting(as_json):
        where = _address_of_ray(address)
        config = _config(modules or [], hosts_per_node, data_dir)
        _import_all(modules or [])
        with _connected(address, cluster, start=True, config=config) as connected:
            found = connected.nodes()
    document = _overview(cluster, where, found)
    show(document, as_json, lambda: print(_summary(document)))


@app.command()
def stop(
    *, address: Address = None, cluster: Name = DEFAULT_CLUSTER, as_json: Json = False
) -> None:
    """End the runtime for everyone.

    States stay in the data directories, and the Ray cluster goes on.
    """
    with reporting(as_json):
        where = _address_of_ray(address)
        with _connected(address, cluster, start=False) as connected:
            connected.shutdown()
    document = {"cluster": cluster, "address": where, "stopped": True}
    show(document, as_json, lambda: print(f"cluster {cluster!r} at {where} is stopped"))


@app.command()
def status(
    *,
    address: Address = None,
    cluster: Name = DEFAULT_CLUSTER,
    start: Start = False,
    as_json: Json = False,
) -> None:
    """Say what is up, and who leads what."""
    with reporting(as_json):
        where = resolve_address(address)
        with _connected(address, cluster, start=start) as connected:
            found = connected.nodes()
    document = _overview(cluster, where, found)

    def write() -> None:
        print(_summary(document))
        silent = [node.name for node in found if not node.is_reachable]
        if silent:
            print(f"not everything answered on {', '.join(silent)}: the counts leave that out")
        print_table(
            ["node", "status", "agents", "shards led", "load"],
            [[n.name, n.status, n.agents, n.shards_led, f"{n.load:.2f}"] for n in found],
        )

    show(document, as_json, write)


def _overview(cluster: str, where: str, found: Sequence[NodeInfo]) -> dict[str, Any]:
    """What a cluster is and has, in all and node by node."""
    return {
        "cluster": cluster,
        "address": where,
        "nodes_up": sum(node.status == "up" for node in found),
        "nodes_reachable": sum(node.is_reachable for node in found),
        "agents": sum(node.agents for node in found),
        "shards_led": sum(node.shards_led for node in found),
        "nodes": found,
    }


def _summary(overview: Mapping[str, Any]) -> str:
    return (
        "cluster {cluster!r} at {address}: nodes up: {nodes_up} of {all}, agents: {agents}, "
        "shards led: {shards_led}"
    ).format(all=len(overview["nodes"]), **overview)


@app.command()
def nodes(
    *,
    address: Address = None,
    cluster: Name = DEFAULT_CLUSTER,
    start: Start = False,
    as_json: Json = False,
) -> None:
    """List the nodes, by name."""
    with reporting(as_json), _connected(address, cluster, start=start) as connected:
        found = connected.nodes()
    show({"nodes": found}, as_json, lambda: _print_nodes(found))


def _print_nodes(found: Sequence[NodeInfo]) -> None:
    print_table(
        ["name", "id", "status", "reachable", "zone", "agents", "shards led", "load", "labels"],
        [
            [
                node.name,
                node.id,
                node.status,
                "yes" if node.is_reachable else "no",
                node.zone or "-",
                node.agents,
                node.shards_led,
                f"{node.load:.2f}",
                ", ".join(_labels(node)) or "-",
            ]
            for node in found
        ],
    )


def _labels(node: NodeInfo) -> list[str]:
    """Its labels, but not the one in which Ray repeats the id."""
    return [f"{key}={value}" for key, value in sorted(node.labels.items()) if value != node.id]


# ------------------------------------------------------------------ nodes that come and go


@app.command()
def drain(
    node: Annotated[str, typer.Argument(metavar="NODE", help="Its name or id.")],
    *,
    address: Address = None,
    cluster: Name = DEFAULT_CLUSTER,
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="How long to wait.",
            show_default="for as long as something moves",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Move everything off a node, so that it can be stopped for good.

    It cannot be taken back. It goes on when the command is ended; the same command then waits for
    the rest.
    """
    with reporting(as_json), _connected(address, cluster, start=False) as connected:
        plan = connected.options(timeout=timeout).drain(node)

    def write() -> None:
        print(f"node {node!r} has left the cluster: {_moved(plan)}")
        if any(move.role == "replica" and move.to is None for move in plan.moves):
            print("shards have fewer replicas now: too few nodes are left for all")

    show(plan, as_json, write)


@app.command()
def preview(
    *,
    address: Address = None,
    cluster: Name = DEFAULT_CLUSTER,
    add: Annotated[
        list[str] | None,
        typer.Option(metavar="NODE", help="A node that would come. May be given many times."),
    ] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option(metavar="NODE", help="A node that would be drained. As --add."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what would move if nodes came or left; nothing is changed."""
    with reporting(as_json), _connected(address, cluster, start=False) as connected:
        plan = connected.preview(add=add or [], remove=remove or [])

    def write() -> None:
        print(_moved(plan))
        rows = [[one.shard, one.role, one.source or "-", one.to or "-"] for one in plan.moves]
        print_table(["shard", "what", "from", "to"], rows)

    show(plan, as_json, write)


def _moved(plan: MovePlan) -> str:
    replicas = sum(move.role == "replica" for move in plan.moves)
    return (
        f"replicas: {replicas}, preferred leaders: {len(plan.moves) - replicas}, agents copied: "
        f"about {plan.agents}, bytes: about {plan.bytes}"
    )


@app.command()
def explain(
    agent_id: Annotated[str, typer.Argument(metavar="ID", help="The agent, there or not.")],
    *,
    address: Address = None,
    cluster: Name = DEFAULT_CLUSTER,
    as_json: Json = False,
) -> None:
    """Say why an agent is where it is, and who serves it."""
    with reporting(as_json), _connected(address, cluster, start=False) as connected:
        text = connected.explain(agent_id)
    show({"agent": agent_id, "explanation": text}, as_json, lambda: print(text))


# ------------------------------------------------------------------ agents and actions


@app.command()
def agents(
    *,
    address: Address = None,
    cluster: Name = DEFAULT_CLUSTER,
    prefix: Annotated[str, typer.Option(help="Only ids that begin with this.")] = "",
    type_name: Annotated[
        str | None,
        typer.Option("--type", metavar="TYPE", help="Only agents of this type, by its name."),
    ] = None,
    start: Start = False,
    as_json: Json = False,
) -> None:
    """List the agents, by id."""
    with reporting(as_json), _connected(address, cluster, start=start) as connected:
        found = sorted(connected.agents(prefix=prefix, type=type_name), key=lambda info: info.id)

    def write() -> None:
        print_table(
            ["id", "type", "node", "shard", "consistency", "version", "in memory"],
            [
                [
                    info.id,
                    info.type,
                    info.node,
                    info.shard,
                    info.consistency,
                    info.version,
                    "yes" if info.is_active else "no",
                ]
                for info in found
            ],
        )

    show({"agents": found}, as_json, write)


@app.command()
def actions(
    *,
    address: Address = None,
    cluster: Name = DEFAULT_CLUSTER,
    start: Start = False,
    as_json: Json = False,
) -> None:
    """List the actions that nodes can run.

    With --json, each has the schemas of its parameters and its result.
    """
    with reporting(as_json), _connected(address, cluster, start=start) as connected:
        found = connected.actions()

    def write() -> None:
        print_table(
            ["name", "version", "tags", "nodes", "description"],
            [
                [
                    info.name,
                    info.version,
                    ", ".join(info.tags) or "-",
                    ", ".join(info.nodes),
                    info.description or "-",
                ]
                for info in found
            ],
        )

    show({"actions": found}, as_json, write)


@app.command()
def call(
    agent_id: Annotated[str, typer.Argument(metavar="ID", help="The agent.")],
    signal: Annotated[str, typer.Argument(metavar="SIGNAL", help="The type of the signal.")],
    *,
    address: Address = None,
    cluster: Name = DEFAULT_CLUSTER,
    param: Annotated[
        list[str] | None,
        typer.Option(
            "--param",
            metavar="KEY=VALUE",
            help="A parameter; the value is JSON if it reads as JSON, else text. May be given "
            "many times.",
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="How long to wait.", show_default="the cluster's"),
    ] = None,
    op_id: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Name the operation: repeated with the same name, it is done only once.",
        ),
    ] = None,
    start: Start = False,
    as_json: Json = False,
) -> None:
    """Call an agent and print the result.

    With --json, the document also says what the result rests on.
    """
    with reporting(as_json):
        params = _params(param or [])
        with _connected(address, cluster, start=start) as connected:
            ref = connected.ref(agent_id).options(timeout=timeout, op_id=op_id)
            reply = ref.request(signal, **params)
    value = reply.value
    text = value if isinstance(value, str) else to_text(value)
    show(reply, as_json, lambda: print(text))


def _params(given: Sequence[str]) -> dict[str, Any]:
    """The parameters of a call.

    Raises:
        UsageError: One is not "key=value", or comes twice.
    """
    params: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not (key and equals):
            message = f"--param {text!r} is not KEY=VALUE"
            raise UsageError(message)
        if key in params:
            message = f"--param {key!r} is given twice"
            raise UsageError(message)
        # Bytes, because text may hold what was no UTF-8 on the command line.
        data = value.encode("utf-8", "replace")
        try:
            params[key] = from_json(data, allow_inf_nan=False)
        except ValueError:
            params[key] = data.decode()
    return params


# ------------------------------------------------------------------ the demo


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def demo(context: typer.Context, *, as_json: Json = False) -> None:
    """Transcode a video on three Ray nodes.

    It starts the nodes and ends them, and needs a checkout of the source. Other options go to the
    example: --video PATH, --kill, --address ADDRESS, --seconds N, --workdir PATH, --keep.
    """
    arguments = list(context.args)
    started = time.monotonic()
    with reporting(as_json):
        code = _example()(arguments)
    if code and as_json:
        message = f"the demo ended with exit code {code}; its output says why"
        fail(ExecutionError(message), as_json, code)
    if code:
        raise typer.Exit(code)  # it has said why
    seconds = round(time.monotonic() - started, 1)
    document = {"example": EXAMPLE, "arguments": arguments, "seconds": seconds}
    show(document, as_json, lambda: None)


def _example() -> Callable[[Sequence[str]], int]:
    """The example's entry.

    Raises:
        ConfigError: It, or something it needs, is not installed; the message says what to do.
    """
    _see_working_directory()
    try:
        entry: Callable[[Sequence[str]], int] = import_module(f"{EXAMPLE}.__main__").main
    except ModuleNotFoundError as error:
        missing = error.name or str(error)
        if missing.partition(".")[0] == "examples":
            message = (
                "the demo is part of the source, not of the installed package: clone the "
                "repository and run 'make demo' in it"
            )
        else:
            message = f"the demo needs {missing!r}: run 'pip install jido-cluster[demo]'"
        raise ConfigError(message) from error
    return entry


# ------------------------------------------------------------------ connecting


@contextlib.contextmanager
def _connected(
    address: str | None, name: str, *, start: bool, config: ClusterConfig | None = None
) -> Iterator[Cluster]:
    """A connection, closed at the end; if there is no runtime, the error says how to start it."""
    try:
        connected = Cluster.connect(address, name=name, config=config, start=start)
    except ClusterUnavailableError as error:
        # With a time to retry after, it is there but busy.
        if error.retry_after is None and "jido-cluster start" not in error.message:
            error.message += f"; start the runtime with '{_start_command(address, name)}'"
        raise
    with connected:
        yield connected


def _start_command(address: str | None, name: str) -> str:
    words = ["jido-cluster", "start"]
    if address is not None:
        words += ["--address", address]
    if name != DEFAULT_CLUSTER:
        words += ["--cluster", name]
    return shlex.join(words)


def _address_of_ray(address: str | None) -> str:
    """Where Ray is.

    Raises:
        UsageError: The address is "local": that cluster would end with the command.
    """
    where = resolve_address(address)
    if where == LOCAL:
        message = (
            "a local cluster lives and ends with the process that made it; give --address "
            "host:port, or auto"
        )
        raise UsageError(message)
    return where


def _config(
    modules: Sequence[str], hosts_per_node: int | None, data_dir: Path | None
) -> ClusterConfig | None:
    """Settings for a new runtime; None, which adopts those of a running one, if none are given.

    Raises:
        UsageError: One is no valid setting.
    """
    if not modules and hosts_per_node is None and data_dir is None:
        return None
    try:
        return ClusterConfig(
            modules=tuple(modules),
            hosts_per_node=hosts_per_node,
            data_dir=None if data_dir is None else data_dir.absolute(),  # nodes work elsewhere
        )
    except ValidationError as error:
        found = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise UsageError("; ".join(found)) from error


def _import_all(modules: Sequence[str]) -> None:
    """Import the modules, before processes on many nodes try to.

    Raises:
        ConfigError: One cannot be imported here.
    """
    _see_working_directory()
    for module in modules:
        try:
            import_module(module)
        except Exception as error:
            message = f"module {module!r} cannot be imported here: {describe(error)}"
            raise ConfigError(message, module=module) from error


def _see_working_directory() -> None:
    """Import from the working directory too, as Ray's workers do for the driver that starts them.

    Last, so that a file there hides nothing that is installed.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


if __name__ == "__main__":
    app()
