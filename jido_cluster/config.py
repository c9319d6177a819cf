"""Configuration of a cluster: what all nodes agree on, and what each may set for itself.

The agreed part is fingerprinted: a process that connects with another one is refused, naming the
field. `config=None` at connect adopts what the running cluster has.
"""

from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from jido_cluster.errors import ConfigError

PartitionStrategy = Literal["pause_minority", "continue_all", "leader_election"]

MAX_DATA: Final = 1 << 20  # bytes; parameters, results, states, signal data (public limit)

AGREED: Final = ("modules", "replicas", "shards", "partition_strategy")


class ClusterConfig(BaseModel):
    """Settings of one cluster.

    Agreed fields (equal everywhere, checked at connect): `modules`, `replicas`, `shards`,
    `partition_strategy`. The others may differ from process to process.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    modules: tuple[str, ...] = ()
    """Importable modules that define agents and actions; every host imports them at start. Empty:
    types of a driver's `__main__` are shipped instead, which suits scripts and notebooks only."""

    runtime_env: dict[str, Any] | None = None
    """Ray runtime environment of the runtime's processes (working_dir, pip, env_vars). Price: any
    non-empty value makes each process start cold, without Ray's prestarted workers."""

    replicas: int = Field(default=3, ge=1, le=5)
    """Nodes that hold each shard. More survive more failures; each adds memory and messages."""

    shards: int = Field(default=256, ge=1, le=65536)
    """Fixed slices of the id space; never changes afterwards. About 16 to 64 for each host the
    cluster may ever have: fewer balance badly, more cost table size and bookkeeping."""

    partition_strategy: PartitionStrategy = "pause_minority"
    """What may still be served on the smaller side of a split network."""

    call_timeout: float = Field(default=30.0, gt=0, le=86400)
    """Seconds; the deadline of calls that set none. Shorter finds trouble sooner; longer lets slow
    handlers finish."""

    hosts_per_node: int | None = Field(default=None, ge=1, le=64)
    """Shard host processes on each node; None: one for each core, at most 8. Each costs about
    90 MB and uses at most one core."""

    data_dir: Path | None = None
    """Folder, on a local disk of each machine, in which its nodes keep their state; several Ray
    nodes of one machine share it (label `jido.slot`, or the lowest slot that is free). None: inside
    the Ray session's directory of that node, so that state survives every process of the runtime,
    and ends with that Ray node: one that is started again joins as a new node, and copies what it
    is to hold from the others. Stop all Ray nodes, and all state is gone."""

    warm_workers: int = Field(default=1, ge=0, le=64)
    """Idle processes kept on each node for agents with `isolation="dedicated"`. Each costs about
    90 MB; 0 makes the first call of a dedicated agent wait for a process to start."""

    @field_validator("modules")
    @classmethod
    def _modules_have_names(cls, modules: tuple[str, ...]) -> tuple[str, ...]:
        for name in modules:
            if not all(part.isidentifier() for part in name.split(".")):
                message = f"{name!r} is no module name; write it as in an import statement"
                raise ValueError(message)
        return modules

    def agreed(self) -> dict[str, Any]:
        """The agreed fields as plain data."""
        return self.model_dump(mode="json", include=set(AGREED))

    def check_agrees(self, running: dict[str, Any]) -> None:
        """Do nothing if the agreed fields equal the running cluster's.

        Raises:
            ConfigError: A field differs; the message names it with both values.
        """
        mine = self.agreed()
        for name in AGREED:
            if mine[name] != running[name]:
                remedy = "stop the cluster and start it with the new value"
                if name != "modules":
                    remedy += ", on empty data directories"
                message = (
                    f"ClusterConfig.{name} is {mine[name]!r} here and {running[name]!r} in the "
                    f"running cluster; connect with config=None to adopt it, or {remedy}"
                )
                raise ConfigError(message, field=name, here=mine[name], running=running[name])
