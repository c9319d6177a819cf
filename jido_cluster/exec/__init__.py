"""The Exec core: how every action, handler and delivery runs. It knows nothing of the cluster.

Layout, in the order of knowledge:

    needs, context, options     data: what a node must have, what a run knows, how to run
    retry, failures             decisions: when to repeat, what an exception becomes
    signature, work             a function with validators compiled from its types
    threads, engine             the one place where anything runs: `perform`, `execute`
    definition, action          actions as classes and functions, and their registry
    outcome, handle             how a run ended, as data; a reference to one that goes on
    runner, run, many           what callers use, here and for another process
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
from jido_cluster.exec.context import ClusterBinding, Context, current_context
from jido_cluster.exec.engine import execute, perform
from jido_cluster.exec.handle import Handle, RunStatus
from jido_cluster.exec.many import run_many
from jido_cluster.exec.needs import Needs
from jido_cluster.exec.options import ResolvedOptions, RunOptions
from jido_cluster.exec.outcome import ErrorInfo, Outcome, dump_outcome
from jido_cluster.exec.run import AsyncRun, SyncRun, run, run_named, run_sync, start
from jido_cluster.exec.work import Work

__all__ = [
    "Action",
    "ActionSpec",
    "AsyncRun",
    "ClusterBinding",
    "Context",
    "ErrorInfo",
    "Handle",
    "Needs",
    "Outcome",
    "ResolvedOptions",
    "RunOptions",
    "RunStatus",
    "SyncRun",
    "Work",
    "action",
    "current_context",
    "dump_outcome",
    "execute",
    "find_action",
    "perform",
    "register_action",
    "registered_actions",
    "run",
    "run_many",
    "run_named",
    "run_sync",
    "spec_of",
    "start",
]
