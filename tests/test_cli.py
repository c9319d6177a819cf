"""The command line, on clusters in this process."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import Field
from rich.cells import cell_len
from typer.testing import CliRunner, Result

from jido_cluster import (
    Agent,
    Cluster,
    ClusterConfig,
    ClusterUnavailableError,
    ExecutionError,
    OutcomeUnknownError,
    action,
    cli,
    cli_output,
    on,
)
from jido_cluster.testing import LocalCluster

NO_RUNTIME = "the runtime 'default' is not running on the Ray cluster at 'auto'"


class Shelf(Agent, name="cli-shelf"):
    books: list[str] = Field(default_factory=list)
    weight: float = 0.0

    @on("shelf.add")
    def add(self, book: str, weight: float = 0.0) -> int:
        self.books.append(book)
        self.weight += weight
        return len(self.books)

    @on("shelf.books", read_only=True)
    def list_books(self) -> dict[str, Any]:
        return {"books": self.books, "weight": self.weight}

    @on("shelf.echo", read_only=True)
    def echo(self, value: Any = None) -> Any:
        return value

    @on("shelf.burn")
    def burn(self) -> None:
        raise ValueError("it\nburns")

    @on("shelf.weigh", read_only=True)
    def weigh(self) -> float:
        return math.inf

    @on("shelf.lose")
    def lose(self) -> None:
        raise ExecutionError("lost", book="Emma", password="hunter2")


@action(name="cli-bind", description="Bind a book.", tags=("craft",))
def bind(pages: int) -> int:
    return pages


class Connect:
    """Stands for `Cluster.connect`: hands out a local cluster and notes what was asked for."""

    def __init__(self) -> None:
        self.cluster: LocalCluster = Cluster.local(nodes=3)
        self.shelf = self.cluster.spawn(Shelf, "shelf-1", books=["Emma"])
        self.asked: dict[str, Any] = {}
        self.error: BaseException | None = None

    def __call__(self, address: str | None = None, **options: Any) -> Cluster:
        self.asked = {"address": address, **options}
        if self.error is not None:
            raise self.error
        return self.cluster

    @property
    def is_closed(self) -> bool:
        return self.cluster._inner._connection.is_closed


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    for name in ("JIDO_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    fake = Connect()
    monkeypatch.setattr(Cluster, "connect", fake)
    yield fake
    fake.cluster.close()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, arguments, prog_name="jido-cluster")


def document(*arguments: str) -> dict[str, Any]:
    """What a command that succeeds prints with `--json`, and that it prints nothing else."""
    result = run(*arguments, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    assert "error" not in found
    return found


def failure_once(*arguments: str) -> dict[str, Any]:
    """The error of a command that is not to be given twice."""
    result = run(*arguments, "--json")
    assert (result.exit_code, result.stderr) == (1, "")
    error = json.loads(result.stdout)["error"]
    assert isinstance(error, dict)
    return error


def failure(*arguments: str, code: int = 1) -> dict[str, Any]:
    """The error of a command; it is the same one for people and, with `--json`, for programs."""
    plain = run(*arguments)
    assert (plain.exit_code, plain.stdout) == (code, "")
    assert plain.stderr.startswith("error: ")
    assert plain.stderr.count("\n") == 1
    result = run(*arguments, "--json")
    assert (result.exit_code, result.stderr) == (code, "")
    found = json.loads(result.stdout)
    assert list(found) == ["error"]
    error = found["error"]
    assert isinstance(error, dict)
    assert plain.stderr.startswith(f"error: {error['kind']}: ")
    assert " ".join(error["message"].split()) in plain.stderr
    return error


# ------------------------------------------------------------------ looking


def test_nodes_are_listed_for_programs(connect: Connect) -> None:
    """`nodes --json` is every field of every node, by name."""
    found = document("nodes")["nodes"]
    assert [node["name"] for node in found] == ["node-1", "node-2", "node-3"]
    assert sum(node["agents"] for node in found) == 1
    assert found[0] == {
        "id": "node-1.id",
        "name": "node-1",
        "status": "up",
        "is_reachable": True,
        "zone": None,
        "labels": {},
        "agents": found[0]["agents"],
        "shards_led": found[0]["shards_led"],
        "load": 0.0,
    }
    assert connect.is_closed


def test_nodes_are_listed_for_people(connect: Connect) -> None:
    """Where no terminal is, a table is aligned columns without lines and colours."""
    lines = run("nodes").stdout.splitlines()
    assert lines[0].split()[:4] == ["NAME", "ID", "STATUS", "REACHABLE"]
    assert [line.split()[0] for line in lines[1:]] == ["node-1", "node-2", "node-3"]
    assert len({line.index("up") for line in lines[1:]} | {lines[0].index("STATUS")}) == 1
    assert "\x1b" not in "".join(lines)
    assert "│" not in "".join(lines)


def test_a_terminal_gets_a_drawn_table(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal the table is drawn as wide as that is; long cells fold, none is cut."""
    monkeypatch.setattr(cli_output, "_is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    connect.cluster.spawn(Shelf, "x" * 128)
    drawn = run("agents").stdout
    assert "│" in drawn
    assert "consistency" in drawn
    assert "shelf-1" in drawn
    assert drawn.count("x") == 128
    assert max(cell_len(line) for line in drawn.splitlines()) <= 100


@pytest.mark.parametrize("is_terminal", [True, False])
def test_labels_are_shown(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool
) -> None:
    """A node's labels are shown as they are, but not Ray's copy of the id."""
    node = connect.cluster.nodes()[0]
    labels = {"gpu": "[b]l4[/b]", "ray.io/node-id": node.id}
    monkeypatch.setattr(LocalCluster, "nodes", lambda _: [replace(node, labels=labels)])
    monkeypatch.setattr(cli_output, "_is_terminal", lambda: is_terminal)
    monkeypatch.setenv("COLUMNS", "150")
    shown = run("nodes").stdout
    assert "gpu=[b]l4[/b]" in shown
    assert "ray.io/node-id" not in shown


def test_status_adds_up(connect: Connect) -> None:
    """`status` counts over the nodes, and says per node what it leads."""
    found = document("status", "--cluster", "library")
    assert (found["cluster"], found["address"]) == ("library", "auto")
    assert (found["nodes_up"], found["nodes_reachable"], found["agents"]) == (3, 3, 1)
    assert found["shards_led"] == sum(node["shards_led"] for node in found["nodes"]) == 256
    assert connect.asked["name"] == "library"


def test_status_is_readable(connect: Connect) -> None:
    """The first line is the sum, a table of the nodes follows."""
    lines = run("status").stdout.splitlines()
    assert lines[0] == ("cluster 'default' at auto: nodes up: 3 of 3, agents: 1, shards led: 256")
    assert lines[1].split() == ["NODE", "STATUS", "AGENTS", "SHARDS_LED", "LOAD"]
    assert len(lines) == 5


def test_status_says_what_its_counts_leave_out(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that does not answer is named, and still listed."""
    silent, *others = connect.cluster.nodes()
    found = [replace(silent, is_reachable=False), *others]
    monkeypatch.setattr(LocalCluster, "nodes", lambda _: found)
    result = run("status")
    assert result.exit_code == 0
    assert "not everything answered on node-1:" in result.stdout
    assert len(result.stdout.splitlines()) == 6


def test_a_node_is_drained_and_what_moved_is_told(connect: Connect) -> None:
    """A preview says the same before; afterwards the node is not listed any more."""
    shown = run("preview", "--remove", "node-3").stdout
    connect.cluster = Cluster.local(nodes=3)  # the other one ended with the command
    plan = document("preview", "--remove", "node-3")
    assert {move["to"] for move in plan["moves"] if move["role"] == "replica"} == {None}
    connect.cluster = Cluster.local(nodes=3)
    text = run("drain", "node-3").stdout
    assert text.startswith("node 'node-3' has left the cluster: replicas: 256, preferred leaders: ")
    assert "shards have fewer replicas now" in text
    assert shown.split(", agents", maxsplit=1)[0] in text
    assert shown.splitlines()[1].split() == ["SHARD", "WHAT", "FROM", "TO"]
    assert shown.splitlines()[2].split() == ["0", "replica", "node-3", "-"]


def test_a_drain_that_is_refused_is_one_line(connect: Connect) -> None:
    connect.cluster = Cluster.local(nodes=1)
    error = failure_once("drain", "node-1")
    assert (error["kind"], error["retryable"]) == ("unavailable", True)
    assert "no other node is up" in error["message"]


def test_an_agents_place_is_explained(connect: Connect) -> None:
    text = run("explain", "shelf-1").stdout
    assert text.startswith("agent 'shelf-1' is in shard ")
    connect.cluster = Cluster.local(nodes=3)
    found = document("explain", "shelf-1")
    assert found["agent"] == "shelf-1"
    assert "leads it now" in found["explanation"]


def test_agents_are_listed(connect: Connect) -> None:
    """`agents` lists by id; `--prefix` and `--type` narrow it."""
    connect.cluster.spawn(Shelf, "attic-2")
    lines = run("agents").stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        ["attic-2", "cli-shelf"],
        ["shelf-1", "cli-shelf"],
    ]


@pytest.mark.parametrize(
    ("narrowing", "ids"),
    [
        ([], ["shelf-1"]),
        (["--prefix", "shelf-"], ["shelf-1"]),
        (["--prefix", "attic-"], []),
        (["--type", "cli-shelf"], ["shelf-1"]),
        (["--type", "cli-other"], []),
    ],
)
def test_agents_are_narrowed(connect: Connect, narrowing: list[str], ids: list[str]) -> None:
    """Only agents that fit are listed; none at all is an empty list and no error."""
    found = document("agents", *narrowing)["agents"]
    assert [info["id"] for info in found] == ids
    assert connect.is_closed
    for info in found:
        assert info["type"] == "cli-shelf"
        assert info["node"] in info["replicas"]
        assert set(info["fence"]) == {"config_no", "round", "node", "seq"}


def test_an_empty_table_has_its_headings(connect: Connect) -> None:
    """No rows is no reason for no output."""
    assert run("agents", "--prefix", "none").stdout.split()[:2] == ["ID", "TYPE"]


def test_actions_are_listed(connect: Connect) -> None:
    """`actions` lists names and nodes, and for programs the schemas."""
    assert "Bind a book." in run("actions").stdout


def test_actions_have_schemas(connect: Connect) -> None:
    """With `--json` an action says what it takes and gives."""
    (found,) = (row for row in document("actions")["actions"] if row["name"] == "cli-bind")
    assert found["nodes"] == ["node-1", "node-2", "node-3"]
    assert found["tags"] == ["craft"]
    assert found["input_schema"]["properties"]["pages"]["type"] == "integer"
    assert found["output_schema"]["type"] == "integer"


# ------------------------------------------------------------------ calling


def test_a_call_says_what_its_result_rests_on(connect: Connect) -> None:
    """With `--json` the document is the whole reply."""
    node = connect.shelf.info().node
    found = document(
        "call", "shelf-1", "shelf.add", "--param", "book=Persuasion", "--op-id", "twice"
    )
    assert found["value"] == 2
    assert (found["op_id"], found["node"], found["attempts"]) == ("twice", node, 1)
    assert found["durability"] == "quorum"
    assert set(found["fence"]) == {"config_no", "round", "node", "seq"}


def test_a_result_is_printed_as_json(connect: Connect) -> None:
    """People get the value, which reads back as what it is."""
    result = run("call", "shelf-1", "shelf.books")
    assert json.loads(result.stdout) == {"books": ["Emma"], "weight": 0.0}
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-2.5", -2.5),
        ("true", True),
        ("null", None),
        ('"5"', "5"),
        ('{"a": [1, "b"]}', {"a": [1, "b"]}),
        ("Emma", "Emma"),
        ("a=b=c", "a=b=c"),
        ("", ""),
        ("two words", "two words"),
        ("[1,", "[1,"),
        ("NaN", "NaN"),
        ("[" * 1000, "[" * 1000),
        ("\udcff", "?"),
    ],
)
def test_a_parameter_is_json_or_text(connect: Connect, text: str, value: object) -> None:
    """What reads as JSON is that value, all the rest is text as it stands."""
    found = document("call", "shelf-1", "shelf.echo", "--param", f"value={text}")
    assert found["value"] == value
    assert type(found["value"]) is type(value)


@pytest.mark.parametrize("book", ["NaN", "Infinity"])
def test_a_number_that_json_lacks_is_given_as_text(connect: Connect, book: str) -> None:
    """It fits a parameter that takes text; one that takes numbers reads it as the number."""
    words = ["shelf.add", "--param", f"book={book}", "--param", f"weight={book}"]
    assert document("call", "shelf-1", *words)["value"] == 2


def test_a_text_result_is_printed_bare(connect: Connect) -> None:
    """A string comes without quotes, for use in a shell."""
    result = run("call", "shelf-1", "shelf.echo", "--param", "value=grün [b]x[/b]")
    assert result.stdout == "grün [b]x[/b]\n"


def test_a_number_that_json_lacks_is_text(connect: Connect) -> None:
    """An infinite result leaves the document readable for every parser."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    result = run("call", "shelf-1", "shelf.weigh", "--json")
    assert json.loads(result.stdout, parse_constant=refuse)["value"] == "Infinity"


def test_an_operation_is_done_once(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeated with its id, a call gives the first result and changes nothing."""
    monkeypatch.setattr(LocalCluster, "__exit__", lambda *_: None)
    words = ("call", "shelf-1", "shelf.add", "--param", "book=Emma", "--op-id", "op-1")
    assert document(*words)["value"] == document(*words)["value"] == 2
    assert connect.shelf.call(Shelf.list_books)["books"] == ["Emma", "Emma"]


def test_a_timeout_is_passed_on(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--timeout` sets the deadline of the call."""
    seen: list[float | None] = []
    submit = connect.cluster._inner._connection.submit

    def spy(kind: int, target: Any, *rest: Any, **options: Any) -> Any:
        seen.append(target.timeout)
        return submit(kind, target, *rest, **options)

    monkeypatch.setattr(connect.cluster._inner._connection, "submit", spy)
    assert run("call", "shelf-1", "shelf.books", "--timeout", "2.5").exit_code == 0
    assert seen == [2.5]


# ------------------------------------------------------------------ refusals and failures


@pytest.fixture
def open_connect(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> Connect:
    """A cluster that stays open when a command closes it, for commands given twice."""
    monkeypatch.setattr(LocalCluster, "__exit__", lambda *_: None)
    return connect


@pytest.mark.parametrize(
    ("words", "kind", "part"),
    [
        (["nobody", "shelf.add"], "agent_not_found", "'nobody'"),
        (["no body", "shelf.add"], "validation_error", "'no body'"),
        (["shelf-1", "shelf.ad"], "handler_not_found", "did you mean 'shelf.add'"),
        (["shelf-1", "shelf.add"], "validation_error", "book"),
        (["shelf-1", "shelf.add", "--param", "book=1", "--param", "x=1"], "validation_error", "x"),
        (["shelf-1", "shelf.books", "--timeout", "0"], "validation_error", "timeout"),
        (["shelf-1", "shelf.books", "--op-id", "a b"], "validation_error", "'a b'"),
        (["shelf-1", "shelf.burn"], "execution_error", "ValueError"),
        (["shelf-1", "shelf.lose"], "execution_error", "lost"),
    ],
)
def test_a_failed_call_is_one_line(
    open_connect: Connect, words: list[str], kind: str, part: str
) -> None:
    """Whatever goes wrong, people read one line with kind and message, programs the same."""
    error = failure("call", *words)
    assert error["kind"] == kind
    assert part in error["message"]
    assert "Traceback" not in error["message"]


def test_details_travel_but_secrets_do_not(open_connect: Connect) -> None:
    """The document of an error is its `to_dict`: with details, and secrets struck out."""
    details = failure("call", "shelf-1", "shelf.lose")["details"]
    assert details["book"] == "Emma"
    assert details["password"] == "[REDACTED]"


@pytest.mark.parametrize(
    ("params", "part"),
    [(["book"], "KEY=VALUE"), (["=1"], "KEY=VALUE"), (["a=1", "a=2"], "'a' is given twice")],
)
def test_a_malformed_parameter_is_refused(
    open_connect: Connect, params: list[str], part: str
) -> None:
    """A command line that makes no sense ends with 2, before anybody is called."""
    options = [word for param in params for word in ("--param", param)]
    error = failure("call", "shelf-1", "shelf.echo", *options, code=2)
    assert error["kind"] == "usage_error"
    assert part in error["message"]
    assert open_connect.asked == {}


def test_an_unknown_outcome_says_how_to_repeat(open_connect: Connect) -> None:
    """The line holds the option that makes a second try safe, and where the traceback is."""
    open_connect.error = OutcomeUnknownError("the answer is lost", op_id="op-9")
    open_connect.error.error_id = "e-1"
    result = run("call", "shelf-1", "shelf.burn")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "--op-id op-9" in result.stderr
    assert "e-1" in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_unforeseen_is_one_line(open_connect: Connect) -> None:
    """An exception that is none of ours is reported as a bug: what and where, no traceback."""
    open_connect.error = KeyError("surprise")
    error = failure("nodes")
    assert error["kind"] == "internal_error"
    assert "KeyError: 'surprise' (test_cli.py:" in error["message"]


@pytest.mark.parametrize("words", [["nodez"], ["nodes", "--bogus"], ["call", "shelf-1"]])
def test_a_wrong_command_line_ends_with_2(connect: Connect, words: list[str]) -> None:
    """An unknown command or option, or a missing argument, is explained on standard error."""
    result = run(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Usage: jido-cluster" in result.stderr


LOOKS = [["nodes"], ["agents"], ["actions"], ["status"], ["call", "a", "b"]]


@pytest.mark.parametrize("words", [*LOOKS, ["stop"]], ids=lambda words: words[0])
def test_without_a_cluster_the_error_says_how_to_start_one(
    open_connect: Connect, words: list[str]
) -> None:
    """No runtime: the message ends in the command that starts it where it was looked for."""
    open_connect.error = ClusterUnavailableError(NO_RUNTIME)
    result = run(*words, "--address", "ray.example:6379", "--cluster", "my lab")
    command = "jido-cluster start --address ray.example:6379 --cluster 'my lab'"
    assert result.exit_code == 1
    assert result.stderr == (
        f"error: cluster_unavailable: {NO_RUNTIME}; start the runtime with '{command}'\n"
    )


def test_the_way_to_start_is_told_once(open_connect: Connect) -> None:
    """A message that holds the command already is left alone, and so is one that says to wait."""
    told = ClusterUnavailableError("none; run 'jido-cluster start'")
    open_connect.error = told
    assert failure("nodes")["message"] == told.message
    open_connect.error = ClusterUnavailableError("busy", retry_after=1.0)
    assert failure("nodes")["message"] == "busy"


@pytest.mark.parametrize("words", [*LOOKS, ["stop"]], ids=lambda words: words[0])
def test_looking_deploys_nothing(connect: Connect, words: list[str]) -> None:
    """Only `start` starts the runtime unasked."""
    run(*words)
    assert connect.asked["start"] is False
    assert connect.asked["config"] is None


@pytest.mark.parametrize("words", LOOKS, ids=lambda words: words[0])
def test_looking_deploys_when_asked(connect: Connect, words: list[str]) -> None:
    """With `--start` a look starts what it looks at; the last of the two flags counts."""
    run(*words, "--start", "--address", "ray.example:6379")
    assert connect.asked == {
        "address": "ray.example:6379",
        "name": "default",
        "config": None,
        "start": True,
    }


def test_an_address_nobody_can_reach_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A malformed address never gets as far as Ray."""
    monkeypatch.setenv("JIDO_ADDRESS", "ray://there:10001")
    assert "Ray Client" in failure("nodes")["message"]
    assert failure("status", "--address", "nowhere")["kind"] == "validation_error"
    assert failure("start", "--address", "nowhere")["kind"] == "validation_error"


# ------------------------------------------------------------------ starting and stopping


def test_start_adopts_or_uses_defaults(connect: Connect) -> None:
    """Without settings `start` leaves a running runtime as it is, and says what is up."""
    found = document("start", "--cluster", "library")
    assert connect.asked == {"address": None, "name": "library", "config": None, "start": True}
    assert (found["cluster"], found["nodes_up"], found["agents"]) == ("library", 3, 1)
    assert connect.is_closed


def test_start_is_readable(connect: Connect) -> None:
    """People get one line about the cluster."""
    result = run("start")
    assert result.stdout.startswith("cluster 'default' at auto: nodes up: 3 of 3")
    assert result.stdout.count("\n") == 1


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Write a module into an empty working directory; it is forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.setitem(sys.modules, name, ModuleType(name))  # what it is undone to: not there
        monkeypatch.delitem(sys.modules, name)

    return write


def test_start_passes_settings_on(
    connect: Connect, write_module: Callable[[str, str], None]
) -> None:
    """Modules of the working directory are found; what they print stays out of the document."""
    write_module("cli_lamps", "print('hello from a module')")
    write_module("cli_chairs", "")
    words = ["--modules", "cli_lamps", "--modules", "cli_chairs", "--hosts-per-node", "2"]
    result = run("start", *words, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["nodes_up"] == 3
    assert result.stderr == "hello from a module\n"
    wanted = ClusterConfig(modules=("cli_lamps", "cli_chairs"), hosts_per_node=2)
    assert connect.asked["config"] == wanted


def test_start_names_the_folder_of_the_state(connect: Connect) -> None:
    """Also when it is the only setting; a relative one is of the working directory."""
    assert run("start", "--data-dir", "states").exit_code == 0
    assert connect.asked["config"] == ClusterConfig(data_dir=Path.cwd() / "states")
    connect.cluster = Cluster.local(nodes=3)
    assert run("start").exit_code == 0
    assert connect.asked["config"] is None


def test_start_refuses_what_does_not_import(
    connect: Connect, write_module: Callable[[str, str], None]
) -> None:
    """A module that is not there, or fails, is named before any process is started for it."""
    write_module("cli_broken", "raise RuntimeError('no\\nlamp')")
    missing = failure("start", "--modules", "cli_no_such_module")
    assert missing["kind"] == "config_error"
    assert "ModuleNotFoundError" in missing["message"]
    broken = failure("start", "--modules", "cli_broken")
    assert "'cli_broken' cannot be imported here: RuntimeError" in broken["message"]
    assert connect.asked == {}


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--hosts-per-node", "0"], "hosts_per_node: "),
        (["--hosts-per-node", "1000"], "hosts_per_node: "),
        (["--modules", "not-a-name"], "'not-a-name' is no module name"),
        (["--address", "local"], "a local cluster lives and ends"),
    ],
)
def test_start_refuses_senseless_settings(connect: Connect, words: list[str], part: str) -> None:
    """A setting out of range, or a cluster that would end with the command, is a usage error."""
    assert part in failure("start", *words, code=2)["message"]
    assert connect.asked == {}


def test_stop_ends_the_runtime(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """`stop` shuts the runtime down, not only its own connection."""
    calls: list[str] = []
    shutdown = LocalCluster.shutdown

    def spy(self: LocalCluster) -> None:
        calls.append("shutdown")
        shutdown(self)

    monkeypatch.setattr(LocalCluster, "shutdown", spy)
    found = document("stop", "--cluster", "library")
    assert found == {"cluster": "library", "address": "auto", "stopped": True}
    assert calls == ["shutdown"]


def test_stop_is_readable(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """People get one line; the address comes from the environment as for everything else."""
    monkeypatch.setenv("JIDO_ADDRESS", "ray.example:6379")
    assert run("stop").stdout == "cluster 'default' at ray.example:6379 is stopped\n"


def test_stop_refuses_a_local_cluster(connect: Connect) -> None:
    """There is nothing to stop that would outlive the command."""
    assert failure("stop", "--address", "local", code=2)["kind"] == "usage_error"
    assert connect.asked == {}


# ------------------------------------------------------------------ the demo


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Stands for the example: notes its arguments; "fail" among them is its exit code 3."""
    calls: list[list[str]] = []

    def main(arguments: list[str]) -> int:
        calls.append(arguments)
        sys.stdout.write("transcoding\n")
        return 3 if "--fail" in arguments else 0

    entry = ModuleType("examples.transcoding.__main__")
    entry.main = main  # type: ignore[attr-defined]
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, entry.__name__, entry)
    return calls


def test_the_demo_gets_its_options(example: list[list[str]]) -> None:
    """Options the command does not know go to the example, in order."""
    words = ["--video", "a b.mp4", "--kill", "--seconds", "5", "--address", "auto"]
    result = run("demo", *words)
    assert (result.exit_code, result.stdout) == (0, "transcoding\n")
    assert example == [words]


def test_the_demo_reports_for_programs(example: list[list[str]]) -> None:
    """With `--json`, what the example prints goes to standard error."""
    result = run("demo", "--json", "--kill")
    found = json.loads(result.stdout)
    assert (found["example"], found["arguments"]) == ("examples.transcoding", ["--kill"])
    assert found["seconds"] >= 0
    assert result.stderr == "transcoding\n"


def test_a_failed_demo_keeps_its_exit_code(example: list[list[str]]) -> None:
    """The example has said why it failed; for programs there is an error all the same."""
    result = run("demo", "--fail")
    assert (result.exit_code, result.stdout, result.stderr) == (3, "transcoding\n", "")
    result = run("demo", "--fail", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["error"]["kind"] == "execution_error"


@pytest.mark.parametrize(
    ("missing", "part"),
    [("examples.transcoding", "clone the repository"), ("imageio_ffmpeg", "jido-cluster[demo]")],
)
def test_a_demo_that_is_not_there_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, missing: str, part: str
) -> None:
    """Outside a checkout, or without its needs, the demo names the remedy."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.startswith("examples.transcoding")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    error = failure("demo")
    assert error["kind"] == "config_error"
    assert part in error["message"]


# ------------------------------------------------------------------ as a program


def test_help_names_every_command() -> None:
    """Without a command there is help, and all commands are in it."""
    text = run("--help").stdout
    for name in (
        *("start", "stop", "status", "nodes", "drain", "preview", "explain"),
        *("agents", "actions", "call", "demo"),
    ):
        assert f"\n  {name} " in text
        assert "--json" in run(name, "--help").stdout


@pytest.mark.slow
def test_the_program_starts_light() -> None:
    """Loading the command line loads neither Ray nor the drawing of tables."""
    code = (
        "import sys, jido_cluster.cli; "
        "sys.exit(bool({'ray', 'rich.table', 'examples'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_a_reader_that_leaves_is_no_error_to_speak_of() -> None:
    """When the other end of a pipe closes early, nothing but an exit code comes of it."""
    program = subprocess.Popen(
        [sys.executable, "-m", "jido_cluster.cli", "nodes", "--address", "local"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": ""},  # a buffer that is written at exit is the point
    )
    assert program.stdout is not None
    program.stdout.close()
    _, problems = program.communicate(timeout=60)
    assert problems == ""
