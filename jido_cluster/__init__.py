"""jido-cluster: agents that live on a cluster, addressed by id from anywhere.

    import jido_cluster as jido

Layout, in order of knowledge: `errors`, `ids`, `telemetry`, `config` -> `exec` (runs actions) ->
`metrics`, `tracing` (what others are told of runs), `signals` -> `agent` -> `runtime` (turns,
hosts, clients over ports) -> `connection`, `refs`, `cluster`, `sync_cluster` (what users see) ->
`_local` and `_ray` (the ports) -> `cli`.
"""

from jido_cluster import crdt, telemetry, testing
from jido_cluster.agent import Agent
from jido_cluster.cluster import AsyncCluster
from jido_cluster.config import ClusterConfig
from jido_cluster.errors import (
    ActionTimeoutError,
    AgentExistsError,
    AgentLostError,
    AgentNotFoundError,
    CallCycleError,
    ChainError,
    CircuitOpenError,
    ClusterUnavailableError,
    ConfigError,
    DeadlineExceededError,
    ExecutionError,
    FencedError,
    HandlerNotFoundError,
    InternalError,
    InvalidInputError,
    InvalidOutputError,
    JidoError,
    NoCapableNodeError,
    NoQuorumError,
    NotRegisteredError,
    OutcomeUnknownError,
    OverloadedError,
    PlanError,
    RejectedError,
    RunCancelledError,
    SessionUnavailableError,
    StillRunningError,
    UnavailableError,
    UsageError,
    WireError,
)
from jido_cluster.exec.action import Action, action
from jido_cluster.exec.breaker import Breaker
from jido_cluster.exec.chain import Continue, Halt, chain
from jido_cluster.exec.closure import Closure, async_closure, closure
from jido_cluster.exec.context import Context
from jido_cluster.exec.handle import Handle
from jido_cluster.exec.instruction import Instruction
from jido_cluster.exec.many import run_many
from jido_cluster.exec.needs import Needs
from jido_cluster.exec.options import RunOptions
from jido_cluster.exec.outcome import ErrorInfo, Outcome
from jido_cluster.exec.plan import Plan, PlanResult
from jido_cluster.exec.plan_run import run_plan
from jido_cluster.exec.resource import Resource
from jido_cluster.exec.run import run, run_sync, start
from jido_cluster.exec.toolbox import Toolbox
from jido_cluster.exec.workflow import Workflow
from jido_cluster.ids import new_id
from jido_cluster.refs import AgentRef, AsyncAgentRef
from jido_cluster.runrefs import AsyncRunRef, RunRef
from jido_cluster.runtime.fence import Fence
from jido_cluster.runtime.turn import TurnContext
from jido_cluster.session import Session
from jido_cluster.signals import Signal
from jido_cluster.signals.handler import on
from jido_cluster.sync_cluster import Cluster
from jido_cluster.types import ActionInfo, AgentInfo, MovePlan, NodeInfo, Reply

__all__ = [
    "Action",
    "ActionInfo",
    "ActionTimeoutError",
    "Agent",
    "AgentExistsError",
    "AgentInfo",
    "AgentLostError",
    "AgentNotFoundError",
    "AgentRef",
    "AsyncAgentRef",
    "AsyncCluster",
    "AsyncRunRef",
    "Breaker",
    "CallCycleError",
    "ChainError",
    "CircuitOpenError",
    "Closure",
    "Cluster",
    "ClusterConfig",
    "ClusterUnavailableError",
    "ConfigError",
    "Context",
    "Continue",
    "DeadlineExceededError",
    "ErrorInfo",
    "ExecutionError",
    "Fence",
    "FencedError",
    "Halt",
    "Handle",
    "HandlerNotFoundError",
    "Instruction",
    "InternalError",
    "InvalidInputError",
    "InvalidOutputError",
    "JidoError",
    "MovePlan",
    "Needs",
    "NoCapableNodeError",
    "NoQuorumError",
    "NodeInfo",
    "NotRegisteredError",
    "Outcome",
    "OutcomeUnknownError",
    "OverloadedError",
    "Plan",
    "PlanError",
    "PlanResult",
    "RejectedError",
    "Reply",
    "Resource",
    "RunCancelledError",
    "RunOptions",
    "RunRef",
    "Session",
    "SessionUnavailableError",
    "Signal",
    "StillRunningError",
    "Toolbox",
    "TurnContext",
    "UnavailableError",
    "UsageError",
    "WireError",
    "Workflow",
    "action",
    "async_closure",
    "chain",
    "closure",
    "crdt",
    "new_id",
    "on",
    "run",
    "run_many",
    "run_plan",
    "run_sync",
    "start",
    "telemetry",
    "testing",
]
