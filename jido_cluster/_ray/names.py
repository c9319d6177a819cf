"""Names of the runtime's actors, and their common options."""

from typing import Any, Final

SUPERVISOR: Final = "cluster"
NODE_PREFIX: Final = "node-"
MAX_CONCURRENCY: Final = 10_000  # calls under way in one actor; each client holds at most three


def namespace(cluster: str) -> str:
    """The Ray namespace of a runtime."""
    return f"jido-{cluster}"


def node_actor(ray_node_id: str) -> str:
    """Name of a node's supervisor."""
    return f"{NODE_PREFIX}{ray_node_id}"


def actor_of(supervisor: str) -> str:
    """Actor behind a supervisor's address, which also holds its life's number."""
    return supervisor.partition("#")[0]


def ray_node_of(supervisor: str) -> str:
    """The Ray node that a supervisor's address names."""
    return actor_of(supervisor).removeprefix(NODE_PREFIX)


def host_prefix(ray_node_id: str) -> str:
    """What the names of all hosts of a Ray node begin with, and no others."""
    return f"host-{ray_node_id}-"


def actor_options(name: str, namespace_: str, max_restarts: int) -> dict[str, Any]:
    """Options all actors of the runtime share: detached, no core of their own, no retries."""
    return {
        "name": name,
        "namespace": namespace_,
        "lifetime": "detached",
        "num_cpus": 0,
        "max_restarts": max_restarts,
        "max_task_retries": 0,
        "max_concurrency": MAX_CONCURRENCY,
        "enable_task_events": False,
    }
