"""Where a node keeps what it has to know over its starts.

Without `ClusterConfig.data_dir` that is a folder of this Ray node in its session's directory. Ray
gives a node another id at each start, so what is there is found again by a supervisor or a host
that is restarted, and by nobody else.
"""

from pathlib import Path
from typing import Any, Final

from ray._private import worker as ray_worker

from jido_cluster._ray.process import Settings
from jido_cluster.errors import ConfigError
from jido_cluster.storage.directory import DataDirectory

__all__ = ["SLOT_LABEL", "take_directory"]

SLOT_LABEL: Final = "jido.slot"  # which slot of the data directory a Ray node has


def take_directory(
    settings: Settings, ray_node: str, slot: str | None, default_hosts: int
) -> DataDirectory:
    """The directory of this node; blocks until an owner that is about to end is gone.

    Args:
        settings: Of the cluster.
        ray_node: Id of the Ray node.
        slot: What its label says; None for the lowest that is free.
        default_hosts: How many hosts share a new directory when the configuration does not say.

    Raises:
        ConfigError: It is another cluster's, in use, or not to be used; the message says why.
        StoreError: The disk failed.
    """
    config = settings.config
    number: int | None = 0
    if config.data_dir is None:
        folder = _session_folder() / settings.namespace / ray_node
    else:
        folder, number = config.data_dir.expanduser().absolute(), _slot_number(slot)
    directory = DataDirectory.take(
        folder, slot=number, hosts=config.hosts_per_node, default_hosts=default_hosts
    )
    try:
        directory.check_cluster(settings.cluster)
    except ConfigError:
        directory.release()
        raise
    return directory


def _session_folder() -> Path:
    """The directory in which Ray keeps the files of this node's part of the Ray cluster."""
    # Ray has no public way to it.
    node: Any = ray_worker._global_node
    assert node is not None, "not in a Ray worker"
    return Path(node.get_session_dir_path())


def _slot_number(label: str | None) -> int | None:
    if label is None:
        return None
    if not label.isdecimal():
        message = f"label {SLOT_LABEL} is {label!r}; give the number of a slot, 0 or above"
        raise ConfigError(message, label=label)
    return int(label)
