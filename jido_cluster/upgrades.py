"""States of other versions of their class: older ones are brought forward, newer ones left alone.

Theory. A record says which version of its class wrote it. An older state is changed in memory when
it is needed, and stored in today's shape by the next turn that commits; so an upgrade costs nothing
for agents that nobody calls, and code that is rolled back before a turn finds the old state. A
newer state is refused, and may be asked for again: another node may have the newer code by now.
"""

from typing import TYPE_CHECKING

from pydantic_core import from_json, to_json

from jido_cluster.errors import InvalidOutputError, NotRegisteredError

if TYPE_CHECKING:
    from jido_cluster.agent import AgentSpec

__all__ = ["upgraded"]


def upgraded(spec: "AgentSpec", data: bytes, version: int) -> bytes:
    """The state in today's shape.

    Args:
        spec: The type, of another version.
        data: The state, as that version wrote it.
        version: Which that was.

    Raises:
        NotRegisteredError: It is newer than the code here; a retry may find newer code.
        InvalidOutputError: `on_upgrade` failed, or what it made does not validate.
    """
    if version > spec.version:
        message = (
            f"the state of {spec.name!r} was written by version {version} of the class, here is "
            f"version {spec.version}: deploy the newer code on this node"
        )
        raise NotRegisteredError(message, retryable=True, type=spec.name, version=version)
    try:
        made = spec.agent_type.on_upgrade(from_json(data), version)
        encoded = to_json(made, bytes_mode="base64", inf_nan_mode="constants")
    except Exception as error:
        message = (
            f"{spec.name}.on_upgrade failed on a state of version {version}: "
            f"{type(error).__name__}: {error}"
        )
        raise InvalidOutputError(message, version=version) from error
    return spec.dump(spec.load(encoded))
