"""WHO leads and holds each shard: the placement core.

Pure: no I/O, clock, randomness, asyncio, logging or Ray; the same inputs give the same results on
every machine under any PYTHONHASHSEED. The order of knowledge, a file imports only what is above:

    digest, stream              the stable 64-bit hash; chance that follows from a seed
    members, shares, ring,      the shard table: where the shards would best be
    leaders, followers, table

    membership                  status and reachability of a node
    timings, awareness,         the failure detector
    suspicion, probing, gossip,
    opinions, exchange, detector

    config                      the replicas of a group, and their quorums
    record, packing,            the root group's record, as a value and as bytes
    differences
    commands, draft,            what changes it, and what it refuses
    group_changes, changes
    formation                   who founds the cluster

    targets, steps, planner     from the record and the world to the next steps
    rehearsal                   dry run, and why an agent is where it is

    policies, healing           what is served while the network is split, and what heals it
    choice                      which node a piece of work goes to
"""

from jido_placement.changes import apply, apply_all
from jido_placement.choice import Choice, NoCapable, Offer, Requirements, choose
from jido_placement.config import GroupConfig, Replica
from jido_placement.detector import Detector, DetectorStatistics
from jido_placement.differences import (
    RecordDiff,
    RecordHistory,
    apply_diff,
    diff,
    diff_from_bytes,
    diff_to_bytes,
)
from jido_placement.digest import h64, shard_of
from jido_placement.formation import Candidate, decide
from jido_placement.healing import Healing
from jido_placement.members import Member
from jido_placement.membership import Opinion, Reachability, Status, first_incarnation
from jido_placement.packing import DamagedRecordError, record_from_bytes, record_to_bytes
from jido_placement.planner import plan
from jido_placement.policies import CELLS, Admission, Column, Level, Strategy, admitted, outcome
from jido_placement.record import ROOT, GroupRecord, MemberRecord, Record, found, root_size
from jido_placement.rehearsal import Preview, explain, preview
from jido_placement.steps import Limits, Order, Transfer, World
from jido_placement.stream import Stream
from jido_placement.table import Move, ShardTable, build_table, moves
from jido_placement.timings import Timings

__all__ = [
    "CELLS",
    "ROOT",
    "Admission",
    "Candidate",
    "Choice",
    "Column",
    "DamagedRecordError",
    "Detector",
    "DetectorStatistics",
    "GroupConfig",
    "GroupRecord",
    "Healing",
    "Level",
    "Limits",
    "Member",
    "MemberRecord",
    "Move",
    "NoCapable",
    "Offer",
    "Opinion",
    "Order",
    "Preview",
    "Reachability",
    "Record",
    "RecordDiff",
    "RecordHistory",
    "Replica",
    "Requirements",
    "ShardTable",
    "Status",
    "Strategy",
    "Stream",
    "Timings",
    "Transfer",
    "World",
    "admitted",
    "apply",
    "apply_all",
    "apply_diff",
    "build_table",
    "choose",
    "decide",
    "diff",
    "diff_from_bytes",
    "diff_to_bytes",
    "explain",
    "first_incarnation",
    "found",
    "h64",
    "moves",
    "outcome",
    "plan",
    "preview",
    "record_from_bytes",
    "record_to_bytes",
    "root_size",
    "shard_of",
]
