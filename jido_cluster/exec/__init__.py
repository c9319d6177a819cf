"""The Exec core: how every action, handler and delivery runs. It knows nothing of the cluster.

Layout, in the order of knowledge:

    needs, budget, context      data: what a node must have, what may be retried, what a run knows
    failures, breaker, options  what an exception becomes; when to stop trying; how to run
    retry                       the decision when to repeat
    signature, work             a function with validators compiled from its types
    threads, process...         where work runs that is not on the loop (see `process_pool`)
    events, attempt, engine     the one place where anything runs: `perform`, `execute`
    definition, action          actions as classes and functions, and their registry
    outcome, handle             how a run ended, as data; a reference to one that goes on
    runner, run, many           what callers use, here and for another process
    instruction, steps          an action with its input as a value; one step among several
    chain, closure              actions one after another; an action with presets
    plan, plan_run              steps with dependencies
    workflow, workflow_nodes    an action made of actions
    tool_schema, toolbox        actions as a language model calls them
    resource_pool, resource     what runs share: opened once, one at a time, closed in the end
"""

from jido_cluster.exec.action import (
    Action,
    ActionSpec,
    action,
    find_action,
    register_action,
    registered_actions,
    spec_of,
)
from jido_cluster.exec.breaker import Breaker, BreakerStatistics
from jido_cluster.exec.chain import Continue, Halt, chain
from jido_cluster.exec.closure import Closure, async_closure, closure
from jido_cluster.exec.context import ClusterBinding, Context, current_context
from jido_cluster.exec.engine import execute, perform
from jido_cluster.exec.handle import Handle, RunStatus
from jido_cluster.exec.instruction import Instruction, instruction_of, instructions_of
from jido_cluster.exec.many import run_many
from jido_cluster.exec.needs import Needs
from jido_cluster.exec.options import ResolvedOptions, RunOptions, configure
from jido_cluster.exec.outcome import ErrorInfo, Outcome, dump_outcome
from jido_cluster.exec.plan import Plan, PlanResult
from jido_cluster.exec.plan_run import run_plan
from jido_cluster.exec.resource import Resource
from jido_cluster.exec.run import AsyncRun, SyncRun, run, run_named, run_sync, start
from jido_cluster.exec.toolbox import Toolbox
from jido_cluster.exec.work import Work
from jido_cluster.exec.workflow import Workflow

__all__ = [
    "Action",
    "ActionSpec",
    "AsyncRun",
    "Breaker",
    "BreakerStatistics",
    "Closure",
    "ClusterBinding",
    "Context",
    "Continue",
    "ErrorInfo",
    "Halt",
    "Handle",
    "Instruction",
    "Needs",
    "Outcome",
    "Plan",
    "PlanResult",
    "ResolvedOptions",
    "Resource",
    "RunOptions",
    "RunStatus",
    "SyncRun",
    "Toolbox",
    "Work",
    "Workflow",
    "action",
    "async_closure",
    "chain",
    "closure",
    "configure",
    "current_context",
    "dump_outcome",
    "execute",
    "find_action",
    "instruction_of",
    "instructions_of",
    "perform",
    "register_action",
    "registered_actions",
    "run",
    "run_many",
    "run_named",
    "run_plan",
    "run_sync",
    "spec_of",
    "start",
]
