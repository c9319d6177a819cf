"""The public names and their parameters: what users have written against must not move."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

import jido_cluster as jido
from jido_cluster import telemetry, testing

NAMES = [
    "Action",
    "ActionInfo",
    "Agent",
    "AgentInfo",
    "AgentRef",
    "AsyncAgentRef",
    "AsyncCluster",
    "AsyncRunRef",
    "Breaker",
    "Closure",
    "Cluster",
    "ClusterConfig",
    "Context",
    "Continue",
    "ErrorInfo",
    "Fence",
    "Halt",
    "Handle",
    "Instruction",
    "MovePlan",
    "Needs",
    "NodeInfo",
    "Outcome",
    "Plan",
    "PlanResult",
    "Reply",
    "Resource",
    "RunOptions",
    "RunRef",
    "Session",
    "Signal",
    "Toolbox",
    "TurnContext",
    "Workflow",
    "action",
    "async_closure",
    "chain",
    "closure",
    "crdt",
    "new_id",
    "on",
    "run",
    "run_plan",
    "run_many",
    "run_sync",
    "start",
    "telemetry",
    "testing",
    "JidoError",
    "RejectedError",
    "InvalidInputError",
    "AgentNotFoundError",
    "HandlerNotFoundError",
    "NotRegisteredError",
    "AgentExistsError",
    "CallCycleError",
    "AgentLostError",
    "FencedError",
    "DeadlineExceededError",
    "UnavailableError",
    "OverloadedError",
    "CircuitOpenError",
    "NoQuorumError",
    "SessionUnavailableError",
    "NoCapableNodeError",
    "ClusterUnavailableError",
    "ExecutionError",
    "ActionTimeoutError",
    "InvalidOutputError",
    "RunCancelledError",
    "ChainError",
    "PlanError",
    "OutcomeUnknownError",
    "StillRunningError",
    "ConfigError",
    "UsageError",
    "InternalError",
    "WireError",
]

NOT_YET = ["Subscription"]

ACTION_KEYWORDS = (
    "name=None, description='', category='', tags=(), version='1', executor='auto', needs=None"
)

# Parameters of every public callable, without annotations: names, kinds and defaults.
FUNCTIONS: dict[str, str] = {
    "on": "type, /, *, read_only=False, timeout=None, priority=0",
    "new_id": "prefix=''",
    "run": "action, params=None, context=None, **options",
    "run_sync": "action, params=None, context=None, **options",
    "start": "action, params=None, context=None, **options",
    "run_many": "action, items, context=None, *, max_concurrency=None, on_failure='raise', "
    "progress=None, **options",
    "chain": "steps, params=None, context=None, *, interrupt=None, **options",
    "closure": "action, params=None, context=None, **options",
    "async_closure": "action, params=None, context=None, **options",
    "Closure.__call__": "self, params=None, context=None, **options",
    "Closure.start": "self, params=None, context=None, **options",
    "Plan": "*, context=None",
    "Plan.add": "self, step, action, params=None, *, depends_on=(), **options",
    "run_plan": "plan, params=None, context=None, *, max_concurrency=None, resume=None, **options",
    "Toolbox": "*actions",
    "Toolbox.schemas": "self, *, strict=False",
    "Toolbox.run": "self, name, arguments, context=None",
    "Resource": "name, open, *, limit=None, timeout=10.0, check=None",
    "Breaker": "name, *, failures=5, reset=30.0",
    "Action.__init_subclass__": f"*, {ACTION_KEYWORDS}, **options",
    "Action.run": "self, params, ctx, /",
    "Action.on_before_validate": "self, params, /",
    "Action.on_after_validate": "self, params, /",
    "Action.on_before_result": "self, result, /",
    "Action.on_after_run": "self, result, /",
    "Action.on_error": "self, params, error, ctx, /",
    "Agent.__init_subclass__": "*, name=None, version=1, consistency='eventual', "
    "durability='disk', virtual=False, isolation='shared', ray_options=None, needs=None, idle_timeout=900.0, "  # noqa: E501
    "max_mailbox=1000, partition_strategy=None, **unknown",
    "Agent.on_start": "self",
    "Agent.on_stop": "self",
    "Agent.on_conflict": "versions, /",
    "Agent.on_upgrade": "data, version, /",
    "Context.remaining": "self",
    "Context.use": "self, resource, /",
    "TurnContext.send": "self, to, signal, /",
    "TurnContext.start": "self, action, params, /, *, reply=None, tag='', needs=None, **options",
    "TurnContext.cancel": "self, run_id, /",
    "TurnContext.schedule": "self, signal, /, *, key, after=None, at=None, cron=None, tz='UTC'",
    "TurnContext.unschedule": "self, key, /",
    "TurnContext.delete": "self",
    "crdt.GCounter": "",
    "crdt.GCounter.increment": "self, by=1",
    "crdt.PNCounter.decrement": "self, by=1",
    "crdt.ORSet.add": "self, item",
    "crdt.ORSet.discard": "self, item",
    "crdt.LWWRegister.set": "self, value",
    "crdt.LWWMap.set": "self, key, value",
    "crdt.LWWMap.discard": "self, key",
    "crdt.MVRegister.set": "self, value",
    "Session.__enter__": "self",
    "Signal.of": "handler, /, *args, **kwargs",
    "Outcome.unwrap": "self",
    "Handle.status": "self",
    "Handle.wait": "self, timeout=None",
    "Handle.result": "self, timeout=None",
    "Handle.cancel": "self",
    "Handle.as_future": "self",
    "JidoError": "message='', *, retryable=None, **details",
    "JidoError.to_dict": "self",
    "JidoError.from_dict": "data",
    "Needs": "labels=<factory>, resources=<factory>, actions=()",
    "Cluster.connect": "address=None, *, name='default', config=None, start=True",
    "Cluster.local": "nodes=1, *, config=None, data_dir=None, resources=None, virtual_time=False",
    "Cluster.close": "self",
    "Cluster.shutdown": "self",
    "Cluster.options": "self, *, timeout=None, op_id=None",
    "Cluster.session": "self, token=None",
    "Cluster.spawn": "self, agent_type, agent_id, /, *args, **state",
    "Cluster.get_or_spawn": "self, agent_type, agent_id, /, *args, **state",
    "Cluster.agents": "self, *, prefix='', type=None",
    "Cluster.run": "self, action, params=None, context=None, *, needs=None, **options",
    "Cluster.start": "self, action, params=None, context=None, *, needs=None, **options",
    "Cluster.run_many": "self, action, items, context=None, *, needs=None, max_concurrency=None, "
    "on_failure='raise', progress=None, **options",
    "Cluster.nodes": "self",
    "Cluster.preview": "self, *, add=(), remove=()",
    "Cluster.drain": "self, node, /",
    "Cluster.explain": "self, agent_id, /",
    "Cluster.actions": "self, *, name=None, tag=None",
    "AgentRef.stream": "self, handler, /, *args, **kwargs",
    "AgentRef.options": "self, *, timeout=None, op_id=None",
    "AgentRef.state": "self, *, consistency=None",
    "AgentRef.info": "self",
    "AgentRef.passivate": "self",
    "AgentRef.delete": "self",
    "RunRef.status": "self",
    "RunRef.wait": "self, timeout=None",
    "RunRef.result": "self, timeout=None",
    "RunRef.cancel": "self",
}
SIGNAL = "type, data=None, /, *, id=None, source=None, subject=None, time=None"
TESTING: dict[str, str] = {
    "AgentHarness": "agent, agent_id='test', *, resources=None",
    "AgentHarness.call": "self, handler, /, *args, **kwargs",
    "AgentHarness.stream": "self, handler, /, *args, **kwargs",
    "AgentHarness.deliver": "self, signal, /",
    "AgentHarness.advance": "self, seconds",
    "AgentHarness.stub": "self, agent_id, handler, /, *, returns=None, raises=None",
    "LocalCluster.kill": "self, node",
    "LocalCluster.restart": "self, node",
    "LocalCluster.settle": "self",
    "LocalCluster.advance": "self, seconds",
    "check_state": "agent",
    "check_upgrade": "agent_type, data, version",
}
TELEMETRY: dict[str, str] = {
    "attach": "name, event, listener",
    "attach_many": "name, events, listener",
    "detach": "name",
    "execute": "event, measurements, metadata",
}
EVERYTHING = [
    *((jido, name, given) for name, given in FUNCTIONS.items()),
    *((testing, name, given) for name, given in TESTING.items()),
    *((telemetry, name, given) for name, given in TELEMETRY.items()),
]
PAIRS = [
    (jido.Cluster, jido.AsyncCluster),
    (jido.AgentRef, jido.AsyncAgentRef),
    (jido.RunRef, jido.AsyncRunRef),
    (testing.LocalCluster, testing.AsyncLocalCluster),
]
SYNC_ONLY = {"submit"}  # an awaitable call is its own future
NO_IO = {"options", "ref", "connect", "local", "agents", "session", "stream"}


def found(module: Any, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part)
    return module


def shape(function: Callable[..., Any]) -> str:
    """The parameters without annotations."""
    signature = inspect.signature(function)
    bare = [
        one.replace(annotation=inspect.Parameter.empty) for one in signature.parameters.values()
    ]
    text = str(inspect.Signature(bare))
    return text.removeprefix("(").removesuffix(")")


def public(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


def test_every_name_is_there() -> None:
    """As an attribute and in `__all__`; what is not built yet is absent."""
    assert [name for name in NAMES if not hasattr(jido, name)] == []
    assert sorted(jido.__all__) == sorted(NAMES)
    assert [name for name in NOT_YET if hasattr(jido, name)] == []


@pytest.mark.parametrize(("module", "path", "given"), EVERYTHING, ids=lambda value: str(value)[:40])
def test_a_callable_takes_what_it_is_given(module: Any, path: str, given: str) -> None:
    """Names, kinds and defaults of the parameters."""
    assert shape(found(module, path)) == given


def test_constructors_of_values() -> None:
    """Those whose defaults have no short text."""
    assert shape(jido.Signal).startswith(SIGNAL + ", extensions=")
    assert re.sub("name=None", "name", ACTION_KEYWORDS, count=1) in shape(jido.action)
    assert list(jido.RunOptions.__annotations__) == [
        "timeout",
        "max_retries",
        "retry_delay",
        "retry_backoff",
        "retry_jitter",
        "retry_max_delay",
        "retry_on",
        "fallback",
        "breaker",
    ]


@pytest.mark.parametrize(
    ("owner", "attributes"),
    [
        (jido.AgentInfo, "id type node shard fence replicas consistency version is_active"),
        (jido.NodeInfo, "id name status is_reachable zone labels agents shards_led load"),
        (jido.ActionInfo, "name version description tags nodes input_schema output_schema"),
        (jido.MovePlan, "moves agents bytes"),
        (jido.Reply, "value op_id durability fence node attempts is_partitioned is_stale"),
        (jido.Fence, "config_no round node seq"),
        (jido.Needs, "labels resources actions"),
        (jido.Instruction, "action params context options"),
    ],
)
def test_values_have_their_attributes_in_order(owner: type, attributes: str) -> None:
    """They are frozen and comparable."""
    parameters: Any = owner.__dataclass_params__  # type: ignore[attr-defined]
    assert list(owner.__dataclass_fields__) == attributes.split()  # type: ignore[attr-defined]
    assert parameters.frozen
    assert parameters.eq


def test_models_have_their_fields() -> None:
    """Outcomes and errors of runs, and the defaults of the configuration."""
    assert list(jido.Outcome.model_fields) == [
        "run_id",
        "tag",
        "ok",
        "value",
        "error",
        "attempts",
        "seconds",
        "node",
    ]
    assert list(jido.ErrorInfo.model_fields) == [
        "kind",
        "message",
        "retryable",
        "error_id",
        "details",
    ]
    config = jido.ClusterConfig()
    assert (config.modules, config.runtime_env, config.replicas, config.shards) == (
        (),
        None,
        3,
        256,
    )
    assert (config.partition_strategy, config.call_timeout) == ("pause_minority", 30.0)
    assert (config.hosts_per_node, config.data_dir) == (None, None)


def test_contexts_have_their_attributes() -> None:
    """Of every action, and of a turn beside them."""
    for name in ("run_id", "attempt", "trace", "cluster", "sync_cluster", "remaining"):
        assert hasattr(jido.Context, name), name
    for name in [
        "agent_id",
        "signal",
        "caller",
        "op_id",
        "fence",
        "now",
        "is_new",
        "send",
        "start",
        "cancel",
        "schedule",
        "unschedule",
        "delete",
    ]:
        assert hasattr(jido.TurnContext, name), name
    for name in ("emit", "subscribe"):
        assert not hasattr(jido.TurnContext, name), name
    assert isinstance(jido.Fence.token, property)


@pytest.mark.parametrize(("sync", "asynchronous"), PAIRS, ids=lambda cls: cls.__name__)
def test_both_surfaces_have_the_same_names(sync: type, asynchronous: type) -> None:
    """Whatever can be done with one can be done with the other."""
    beyond = {"outcome"} if sync is jido.RunRef else set()
    assert public(sync) - SYNC_ONLY == public(asynchronous) - beyond


@pytest.mark.parametrize(("sync", "asynchronous"), PAIRS, ids=lambda cls: cls.__name__)
def test_both_surfaces_take_the_same_parameters(sync: type, asynchronous: type) -> None:
    """With the same defaults; I/O is a coroutine on one and plain on the other."""
    for name in sorted((public(sync) & public(asynchronous)) - SYNC_ONLY):
        one, two = getattr(sync, name), getattr(asynchronous, name)
        if isinstance(one, property) or not callable(one):
            continue
        assert shape(one) == shape(two), name
        assert not inspect.iscoroutinefunction(one), name
        assert inspect.iscoroutinefunction(two) is (name not in NO_IO), name


@pytest.mark.parametrize("name", ["call", "request", "cast", "submit"])
def test_calls_take_a_handler_a_signal_or_a_type(name: str) -> None:
    """Whatever it is, it is positional-only: parameter names belong to handlers."""
    first, *rest = list(inspect.signature(getattr(jido.AgentRef, name)).parameters.values())[1:]
    assert first.kind is inspect.Parameter.POSITIONAL_ONLY
    assert [one.kind for one in rest] == [
        inspect.Parameter.VAR_POSITIONAL,
        inspect.Parameter.VAR_KEYWORD,
    ]


@pytest.mark.parametrize("cls", [jido.Cluster, jido.AsyncCluster])
@pytest.mark.parametrize("name", ["ref", "get"])
def test_the_type_of_a_ref_can_be_left_out(cls: type, name: str) -> None:
    """Both forms are positional-only."""
    parameters = list(inspect.signature(getattr(cls, name)).parameters.values())[1:]
    assert len(parameters) == 2
    assert {one.kind for one in parameters} == {inspect.Parameter.POSITIONAL_ONLY}


def test_every_public_thing_is_documented() -> None:
    """Classes, functions, and their public methods."""
    missing = []
    for name in jido.__all__:
        thing = getattr(jido, name)
        if inspect.ismodule(thing):
            continue
        if not inspect.getdoc(thing):
            missing.append(name)
        if inspect.isclass(thing) and thing.__module__.startswith("jido_cluster"):
            for key, value in vars(thing).items():
                if inspect.isfunction(value) and not key.startswith("_") and not value.__doc__:
                    missing.append(f"{name}.{key}")
    assert missing == []
