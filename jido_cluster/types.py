"""Data that the public API returns: plain, frozen, comparable."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from jido_cluster.agent import Consistency
from jido_cluster.runtime.fence import Fence
from jido_cluster.runtime.view import MemberStatus

R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True)
class AgentInfo:
    """One agent, as its host sees it.

    Attributes:
        node: Name of the node it lives on.
        version: Number of commits since it was spawned, >= 0.
        replicas: Names of the nodes that hold its shard, distinct, in the order of preference:
            the first one is to lead it; `node` is the one that does.
        is_active: Whether its object is in memory.
    """

    id: str
    type: str
    node: str
    shard: int
    fence: Fence
    replicas: tuple[str, ...]
    consistency: Consistency
    version: int
    is_active: bool


@dataclass(frozen=True)
class Reply(Generic[R_co]):
    """A call's result with what it rests on.

    Attributes:
        durability: Where the state behind the result is kept: by a majority of its replicas, by
            two or one of them on this side of a split network, or in memory.
        fence: Of the state behind the result; None without a quorum (`is_partitioned`).
        attempts: How often the call was sent, >= 1.
        is_partitioned: Whether it was done, or read, without a quorum.
        is_stale: Whether it was read from a copy that may be old.
    """

    value: R_co
    op_id: str
    durability: Literal["quorum", "two", "local", "memory", "none"]
    fence: Fence
    node: str
    attempts: int
    is_partitioned: bool = False
    is_stale: bool = False


@dataclass(frozen=True)
class NodeInfo:
    """One node.

    Attributes:
        status: How far it has come: "joining", "up", "leaving" (it is being drained) or "down".
            One that has left is listed no more.
        is_reachable: Whether all its processes answered, within some seconds.
        agents: How many it leads, as far as their records have come to it.
        shards_led: How many it leads.
        load: Turns and runs under way for each core, >= 0.
    """

    id: str
    name: str
    status: MemberStatus
    is_reachable: bool
    zone: str | None
    labels: Mapping[str, str]
    agents: int
    shards_led: int
    load: float


@dataclass(frozen=True)
class Move:
    """One replica or leadership of a shard that goes from node to node.

    Attributes:
        source: Name of the node it leaves; None where the shard gets one more replica.
        to: Name of the node it goes to; None where the shard has one replica less from then on.
        role: "leader": another node is to lead, and nothing is copied.
    """

    shard: int
    source: str | None
    to: str | None
    role: Literal["replica", "leader"]


@dataclass(frozen=True)
class MovePlan:
    """What moves, or would move, when nodes come and go.

    Attributes:
        moves: By shard; replicas before leaderships.
        agents: How many agents are in the shards that are copied; about, since they change.
        bytes: What is copied, in all: the states of those agents for each new replica, as they are
            stored; what is remembered beside them (operations, outboxes, timers) comes on top.
    """

    moves: tuple[Move, ...]
    agents: int
    bytes: int


@dataclass(frozen=True)
class ActionInfo:
    """One action that can run on the cluster.

    Attributes:
        nodes: Names of the nodes that know it, sorted.
        input_schema: JSON schema of the parameters.
        output_schema: JSON schema of the result.
    """

    name: str
    version: str
    description: str
    tags: tuple[str, ...]
    nodes: tuple[str, ...]
    input_schema: Mapping[str, Any] = field(hash=False)
    output_schema: Mapping[str, Any] = field(hash=False)
