"""Joining a Ray cluster from this process."""

import os
import socket
from pathlib import Path
from typing import Any, Final

from jido_cluster.errors import ClusterUnavailableError

START_COMMAND: Final = "ray start --head"
LISTEN_SECONDS: Final = 5.0


def set_auth_mode() -> None:
    """Decide Ray's authentication before Ray does.

    With the variable unset, a bare `ray.init()` that starts a cluster switches token authentication
    on for it and for every later one of this user, which then refuses processes without the token.
    A token that is there means it is wanted.
    """
    if "RAY_AUTH_MODE" not in os.environ:
        has_token = (
            "RAY_AUTH_TOKEN" in os.environ
            or "RAY_AUTH_TOKEN_PATH" in os.environ
            or (Path.home() / ".ray" / "auth_token").exists()
        )
        os.environ["RAY_AUTH_MODE"] = "token" if has_token else "disabled"


def join(address: str) -> None:
    """Connect this process to the Ray cluster, unless it is connected already.

    Raises:
        ClusterUnavailableError: There is none at the address.
    """
    set_auth_mode()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return
    _check_listening(address)
    arguments: dict[str, Any] = {}
    local = _address_towards(address)
    if local is not None:
        # Ray picks a raylet by scanning the processes of the whole machine, and prefers the head:
        # wrong where nodes are in network namespaces of their own.
        arguments["_node_ip_address"] = local
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            configure_logging=False,
            namespace="jido-drivers",
            **arguments,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _unavailable(address, _first_line(error)) from error


def _unavailable(address: str, why: str) -> ClusterUnavailableError:
    message = (
        f"there is no Ray cluster at {address!r}: {why}; start one with '{START_COMMAND}', join "
        "further machines with 'ray start --address=HOST:6379', or use Cluster.local() without Ray"
    )
    return ClusterUnavailableError(message, address=address)


def _check_listening(address: str) -> None:
    """Do nothing if somebody listens at "host:port"; `ray.init` would go on trying for minutes.

    Raises:
        ClusterUnavailableError: Nobody does.
    """
    host, colon, port = address.rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host, int(port)), LISTEN_SECONDS).close()
    except OSError as error:
        raise _unavailable(address, str(error)) from error


def _address_towards(address: str) -> str | None:
    """This machine's own address on the way to the cluster; None for "auto" and loopback."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or host in ("localhost", "127.0.0.1"):
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, int(port)))  # sends nothing; the kernel only picks the route
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _first_line(error: BaseException) -> str:
    """What Ray says, and what it gives as the cause."""
    line = (str(error).splitlines() or [type(error).__name__])[0][:300]
    return line if error.__cause__ is None else f"{line} ({_first_line(error.__cause__)})"
