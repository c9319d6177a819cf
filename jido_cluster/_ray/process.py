"""What every process of the runtime sets up: settings, user code, and its own connection."""

import asyncio
import logging
import threading
from dataclasses import dataclass
from typing import Any

import ray
from ray import cloudpickle

from jido_cluster.agent import Agent, register_agent
from jido_cluster.config import ClusterConfig
from jido_cluster.exec.action import register_action
from jido_cluster.runtime.actions import import_modules

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What the supervisor gives every process. Travels through Ray only.

    Attributes:
        token: Shown on every TCP connection between the runtime's processes.
        expect: How many nodes found the cluster: the Ray nodes that were alive at its first start.
    """

    cluster: str
    namespace: str
    address: str
    token: str
    config: ClusterConfig
    release: str
    expect: int


class Code:
    """Definitions shipped from a driver's `__main__`, as far as this process has them."""

    def __init__(self) -> None:
        self.version = 0
        self._lock = threading.Lock()

    def take(self, version: int, pickles: list[bytes]) -> None:
        """Register definitions that are newer than what is here."""
        with self._lock:
            if version <= self.version:
                return
            for data in pickles:
                try:
                    register(cloudpickle.loads(data))
                except Exception:
                    logger.exception("a definition from a driver cannot be used here")
            self.version = version


def register(definition: Any) -> None:
    """Make a definition that arrived by value known in this process."""
    if isinstance(definition, type) and issubclass(definition, Agent):
        register_agent(definition)
    else:
        register_action(definition)


CODE = Code()


def set_up(settings: Settings) -> None:
    """Import the cluster's modules in this process.

    Raises:
        ConfigError: One cannot be imported.
    """
    import_modules(settings.config.modules)


def ray_node_id() -> str:
    """The Ray node this process runs on."""
    return str(ray.get_runtime_context().get_node_id())


def own_ip() -> str:
    """This node's address, as Ray knows it."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


async def forever() -> None:
    """Never return: the call fails when this process dies."""
    await asyncio.Event().wait()
