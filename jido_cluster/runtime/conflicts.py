"""States of one agent that were made without knowing of each other, and how a type merges them.

Theory. Replicated fields are merged by what they are. For the rest a type may have an
`on_conflict`; without one the latest state's fields are taken. So a type with replicated fields
alone loses nothing, and needs no code. What was not taken is reported: nothing that was
acknowledged goes silently.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jido_cluster import telemetry
from jido_cluster.agent import Agent, AgentSpec, find_agent
from jido_cluster.crdt import Replicated
from jido_state.dots import Actor
from jido_state.merge import Merged, Resolve
from jido_state.record import Record

__all__ = ["folded", "report_conflicts", "resolve_of"]

logger = logging.getLogger(__name__)


def resolve_of(type_name: str) -> Resolve | None:
    """The own merge of a type; None when it has none, or is not known here."""
    spec = find_agent(type_name)
    if spec is None:
        return None
    has_own = spec.agent_type.on_conflict.__func__ is not Agent.on_conflict.__func__  # type: ignore[attr-defined]
    replicated = _replicated(spec)
    if not has_own and not replicated:
        return None

    def resolve(records: Sequence[Record], latest: int) -> tuple[int, bytes]:
        return spec.version, _merged(spec, records, latest, replicated, has_own=has_own)

    return resolve


def folded(spec: AgentSpec, record: Record, actors: Sequence[Actor]) -> Record:
    """The record with actors that are over named no more in its replicated fields.

    Raises:
        NotRegisteredError: It was written by newer code.
        InvalidOutputError: It does not load.
    """
    names = _replicated(spec)
    if not names:
        return record
    agent = spec.load(spec.current_state(record.state, record.schema))
    update = {name: getattr(agent, name).folded(actors) for name in names}
    state = spec.dump(agent.model_copy(update=update))
    return replace(record, state=state, schema=spec.version)


def _replicated(spec: AgentSpec) -> list[str]:
    """Names of the replicated fields of a type."""
    fields = spec.agent_type.model_fields.items()
    return [name for name, field in fields if _is_replicated(field)]


def _is_replicated(field: Any) -> bool:
    annotation = field.annotation
    origin = getattr(annotation, "__origin__", annotation)
    return isinstance(origin, type) and issubclass(origin, Replicated)


def _merged(
    spec: AgentSpec,
    records: Sequence[Record],
    latest: int,
    replicated: Sequence[str],
    *,
    has_own: bool,
) -> bytes:
    """The state that comes of those in the records, the place of the latest of which is given."""
    versions = [spec.load(spec.current_state(one.state, one.schema)) for one in records]
    merged = {}
    for name in replicated:
        first, *others = (getattr(version, name) for version in versions)
        merged[name] = first.merged(others)
    state = spec.agent_type.on_conflict(versions) if has_own else versions[latest]
    data = state.model_copy(update=merged)
    result = spec.dump(data)
    spec.load(result)
    return result


def report_conflicts(key: str, merged: Merged) -> None:
    """Tell of values that were not taken."""
    if merged.failure:
        logger.error(
            "on_conflict of agent %s raised %s: its latest state is kept", key, merged.failure
        )
    for conflict in merged.conflicts:
        reason = conflict.reason.value
        metadata = {"agent": key, "type": conflict.record.type, "reason": reason}
        telemetry.execute("jido.cluster.conflict", {"count": 1}, metadata)
        logger.warning("a concurrent state of agent %s was not taken: %s", key, reason)
