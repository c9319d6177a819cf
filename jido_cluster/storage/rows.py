"""What the rows of a store mean: headers, registers, entries, periods, as sealed bytes.

Theory. Every row is sealed by `jido_state.codec` for its shard and key, and those that are no
register under a key that no agent can have, so that no row is ever taken for another. A register
that does not open is *spoilt*: its replica knows the key by name and not by content. A header that
does not open means that this replica is lost, and so does a period: what was promised, or done
under which dot, can no longer be told.
*Source*: finding 42 of the replication protocol.
"""

from collections.abc import Sequence
from typing import Any, Final

import ormsgpack

from jido_cluster.runtime.sealed import seal, unseal
from jido_placement.config import GroupConfig, Replica
from jido_state.codec import CorruptRowError, open_row, seal_row
from jido_state.messages import Header, Row
from jido_state.versions import NO_BALLOT, NO_VERSION, Ballot

__all__ = [
    "header_from_bytes",
    "header_to_bytes",
    "period_from_bytes",
    "period_to_bytes",
    "row_from_bytes",
    "row_to_bytes",
]

# The schema stands in the name: bytes of another one do not open.
_HEADER: Final = "\0header 1"
_PERIOD: Final = "\0period 1"


def row_to_bytes(shard: int, key: str, row: Row) -> bytes:
    """A register's row, in the bytes under which it travels, too."""
    return seal(shard, key, row)


def row_from_bytes(shard: int, key: str, data: bytes) -> Row:
    """The register in these bytes; its content stays bytes until it is read.

    Raises:
        CorruptRowError: They are not what `row_to_bytes` made for this shard and key.
    """
    try:
        return unseal(shard, key, data)
    except CorruptRowError:
        raise
    except ValueError as error:  # also a key that rotted: it is no text any more
        raise CorruptRowError(shard, key, str(error)) from error


def header_to_bytes(shard: int, header: Header) -> bytes:
    """A replica's header."""
    rno, status, config, promised = header
    number, *sides = config
    replicas = [[part for replica in side for part in replica] for side in sides]
    return _seal(shard, _HEADER, [rno, status, [number, *replicas], tuple(promised)])


def header_from_bytes(shard: int, data: bytes) -> Header:
    """The header in these bytes.

    Raises:
        CorruptRowError: They are not what `header_to_bytes` made for this shard.
    """
    try:
        rno, status, (number, *sides), promised = _open(shard, _HEADER, data)
        config = GroupConfig(number, *(_replicas(side) for side in sides))
        return Header(rno, status, config, Ballot(*promised))
    except (TypeError, ValueError) as error:
        raise CorruptRowError(shard, _HEADER, str(error)) from error


def period_to_bytes(shard: int, period: int) -> bytes:
    """The number of a replica's last acting period."""
    return _seal(shard, _PERIOD, period)


def period_from_bytes(shard: int, data: bytes) -> int:
    """The number in these bytes.

    Raises:
        CorruptRowError: They are not what `period_to_bytes` made for this shard.
    """
    period = _open(shard, _PERIOD, data)
    if type(period) is not int:
        raise CorruptRowError(shard, _PERIOD, f"{type(period).__name__} is no number")
    return period


def _replicas(parts: Sequence[int]) -> tuple[Replica, ...]:
    return tuple(map(Replica, parts[::2], parts[1::2]))


def _seal(shard: int, name: str, data: Any) -> bytes:
    return seal_row(shard, name, NO_VERSION, 0, NO_BALLOT, ormsgpack.packb(data))


def _open(shard: int, name: str, data: bytes) -> Any:
    content = open_row(shard, name, data).content
    try:
        return ormsgpack.unpackb(content)
    except ValueError as error:
        raise CorruptRowError(shard, name, str(error)) from error
