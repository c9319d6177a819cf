"""States of one agent that were made without knowing of each other, and how a type merges them.

Theory. Replicated fields are merged by what they are. For the rest a type may have an
`on_conflict`; without one the latest state's fields are taken. So a type with replicated fields
alone loses nothing, and needs no code. What was not taken goes to the conflict log, whole, before
the merge is committed: nothing that was acknowledged goes silently.
"""

import asyncio
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic_core import from_json, to_json

from jido_cluster import telemetry
from jido_cluster.agent import Agent, AgentSpec, find_agent
from jido_cluster.crdt import Replicated
from jido_state.dots import Actor
from jido_state.merge import Conflict, Merged, Resolve
from jido_state.record import Record

__all__ = ["ConflictLog", "folded", "resolve_of"]

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


class ConflictLog:
    """What was not taken of states that were made apart: an event for each, and a line of JSON.

    A merge that could not be committed is made again, so the same state may be there twice.

    Args:
        path: The file that lines are added to; None for none.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    async def keep(self, key: str, merged: Merged) -> None:
        """Tell of what was not taken; when it returns the file has it durably.

        Raises:
            OSError: It could not be written; the merge is not to be committed.
        """
        if merged.failure:
            logger.error(
                "on_conflict of agent %s raised %s: its latest state is kept", key, merged.failure
            )
        if not merged.conflicts:
            return
        rows = [_row(key, conflict) for conflict in merged.conflicts]
        if self._path is not None:
            lines = b"".join(to_json(row) + b"\n" for row in rows)
            await asyncio.to_thread(_append, self._path, lines)
        for row in rows:
            telemetry.execute("jido.cluster.conflict", {"count": 1}, row)
            reason = row["reason"]
            logger.warning("a concurrent state of agent %s was not taken: %s", key, reason)


def _row(key: str, conflict: Conflict) -> dict[str, Any]:
    record = conflict.record
    stamped = datetime.fromtimestamp(record.stamp.wall_ms / 1000, UTC)
    return {
        "agent": key,
        "type": record.type,
        "reason": conflict.reason.value,
        "at": stamped.isoformat(),
        "version": record.schema,
        "state": from_json(record.state) if record.state else None,
    }


def _append(path: Path, lines: bytes) -> None:
    with path.open("ab") as file:
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())
