"""Actions as Ray tasks: the scheduler port, and the task's side of it."""

import asyncio
import threading
from collections.abc import Mapping
from typing import Any, Final

import ray
from ray.exceptions import RayError, TaskCancelledError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jido_cluster._ray import process
from jido_cluster._ray.names import node_actor, ray_node_of
from jido_cluster._ray.process import Settings
from jido_cluster._ray.transport import translate
from jido_cluster.connections import Binding, set_process_binding
from jido_cluster.portal import Portal
from jido_cluster.ports import PeerTroubleError
from jido_cluster.runtime.actions import run_request
from jido_cluster.runtime.view import Member

CPU: Final = "CPU"
GPU: Final = "GPU"


class RayScheduler:
    """Runs each action as one Ray task, pinned to the node that was chosen for it."""

    def __init__(self, settings: Settings) -> None:
        # Put once: every task of this host refers to it.
        self._settings = settings

    async def run(
        self, node: Member, request: bytes, resources: Mapping[str, float], run_id: str
    ) -> bytes:
        """As the port says."""
        if not node.supervisor:
            message = f"where node {node.name} is now is not known"
            raise PeerTroubleError(message)
        ray_node = ray_node_of(node.supervisor)
        others = {k: v for k, v in resources.items() if k not in (CPU, GPU)}
        task = _run_action.options(
            num_cpus=resources.get(CPU, 0),
            num_gpus=resources.get(GPU, 0),
            resources=others or None,
            scheduling_strategy=NodeAffinitySchedulingStrategy(ray_node, soft=False),
        )
        version = process.CODE.version
        reference = task.remote(request, node.name, ray_node, self._settings, version)
        try:
            answer: bytes = await reference
        except asyncio.CancelledError:
            # By force: the worker process ends, and Ray ends its children with it.
            ray.cancel(reference, force=True)
            raise
        except TaskCancelledError as error:
            message = f"the run was cancelled on node {node.name}"
            raise PeerTroubleError(message) from error
        except RayError as error:
            raise translate(error, f"the run on node {node.name}") from error
        return answer


@ray.remote(  # type: ignore[call-overload,untyped-decorator] # Ray's types lack the last option
    max_retries=0, retry_exceptions=False, enable_task_events=False
)
def _run_action(
    request: bytes, node_name: str, node_id: str, settings: Settings, code_version: int
) -> bytes:
    """Run one action in this worker process; the outcome as bytes."""
    here = _Process.get(settings, node_id)
    here.update_code(code_version)
    return here.portal.call(run_request(request, node_name, here.binding))


class _Process:
    """What a Ray worker process that runs actions keeps between tasks."""

    _one: "_Process | None" = None
    _lock = threading.Lock()

    def __init__(self, settings: Settings, node_id: str) -> None:
        from jido_cluster._ray.driver import connect_near

        process.set_up(settings)
        self._settings = settings
        self._node_id = node_id
        self.portal = Portal.start(name="jido-actions")
        connection = self.portal.call(connect_near(settings, node_id))
        self.binding = Binding(connection, self.portal.loop)
        set_process_binding(settings.cluster, self.binding)

    @classmethod
    def get(cls, settings: Settings, node_id: str) -> "_Process":
        with cls._lock:
            if cls._one is None or cls._one._settings.token != settings.token:
                cls._one = cls(settings, node_id)
            return cls._one

    def update_code(self, version: int) -> None:
        if version > process.CODE.version:
            node: Any = ray.get_actor(node_actor(self._node_id), namespace=self._settings.namespace)
            process.CODE.take(*ray.get(node.code.remote(), timeout=30.0))
