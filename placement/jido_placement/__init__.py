"""WHO leads and holds each shard: the placement core.

Pure: no I/O, clock, randomness, asyncio, logging or Ray; the same inputs give the same table on
every machine under any PYTHONHASHSEED. The order of knowledge, a file imports only what is above:

    digest      the stable 64-bit hash
    members     a node's weight and zone
    shares      how much each node should hold, and its limit
    ring        the order in which nodes are suggested for a shard
    leaders     first pass: who leads
    followers   second pass: who follows
    table       the result, its differences, and `build_table`
"""

from jido_placement.digest import h64, shard_of
from jido_placement.members import Member
from jido_placement.table import Move, ShardTable, build_table, moves

__all__ = ["Member", "Move", "ShardTable", "build_table", "h64", "moves", "shard_of"]
