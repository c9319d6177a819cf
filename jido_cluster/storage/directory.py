"""A node's data directory: which slot is its own, who it is, and how often it has started.

    <data_dir>/slots/<n>/lock            held by the node's supervisor for life
    <data_dir>/slots/<n>/node            who the node is; written whole
    <data_dir>/slots/<n>/record          the newest record it knew of its cluster; written whole
    <data_dir>/slots/<n>/store-<k>.db    the rows of the shards s with s mod hosts = k
    <data_dir>/slots/<n>/store-root.db   the rows of the root group

Theory. What a node is called, and that it was never two, rests on its directory alone: a slot has
one owner at a time, by a lock that ends with the owner. A new slot would be a new node with an
empty disk, so one is made only when no slot that is there comes free in time. A start becomes known
to the cluster by a pair (boot, nonce) which is durable here before it is sent. A process may answer
only after the pair that it drew itself is registered: a pair found in the file may be in a copy of
this directory, too. How many hosts share the shards is fixed at the first start, because the number
says in which file a shard is.
*Source*: sections 1.13 and 1.14 and findings 1 and 4 of the replication protocol.
"""

import itertools
import json
import logging
import os
import secrets
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final, NamedTuple, Self
from zlib import crc32

from jido_cluster.errors import ConfigError
from jido_cluster.storage.files import FileLock, write_durably
from jido_placement.packing import record_from_bytes, record_to_bytes
from jido_placement.record import Record
from jido_state.store import StoreError

__all__ = ["BootAsk", "DataDirectory", "Identity"]

FORMAT: Final = 1
OWNER_TIMEOUT_S: Final = 10.0
"""Seconds a dying owner is waited for. A killed process of many gigabytes takes a few to be gone;
each further node of one machine waits this long at its very first start."""

_PAUSE_S: Final = 0.05
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a node is.

    Attributes:
        uuid: Drawn at the first start.
        hosts: How many host processes share its shards, >= 1; fixed at the first start.
        registered: Boot number and nonce that the root group has confirmed last; zeros before.
        intent: The pair it was asked for while the answer is not known.
        cluster_id: Of the cluster it belongs to; empty before it has joined.
        name: That cluster's.
        node: The index it was given there; -1 before.
        recovery_no: How often that cluster had been recovered by force when it was last heard of.
        agreed: Fingerprint of the configuration that the cluster's members share.
    """

    uuid: str
    hosts: int
    registered: tuple[int, int] = (0, 0)
    intent: tuple[int, int] | None = None
    cluster_id: str = ""
    name: str = ""
    node: int = -1
    recovery_no: int = 0
    agreed: str = ""


class BootAsk(NamedTuple):
    """What to ask the root group for.

    Attributes:
        boot: Number of the start.
        nonce: Drawn for it.
        old_nonce: Of the boot before, which this one replaces; 0 for the first.
        is_own: Whether this process drew it. If not, it only settles how an earlier start ended:
            ask again for the next one, and answer nobody before.
    """

    boot: int
    nonce: int
    old_nonce: int
    is_own: bool


class DataDirectory:
    """A slot that this process owns until it ends. Made by `take`; for one thread.

    Attributes:
        slot: Its number.
        path: Its folder.
        identity: As it is on the disk.
    """

    def __init__(self, slot: int, path: Path, lock: FileLock, identity: Identity) -> None:
        """Use `take`."""
        self.slot = slot
        self.path = path
        self.identity = identity
        self._lock = lock
        self._own: tuple[int, int] | None = None  # the pair drawn by this process

    @classmethod
    def take(
        cls,
        data_dir: Path,
        *,
        slot: int | None = None,
        hosts: int | None = None,
        default_hosts: int = 1,
        timeout: float = OWNER_TIMEOUT_S,
    ) -> Self:
        """The slot, with an identity that is made at the first start.

        Args:
            data_dir: Made if it is not there. On a local disk, and of this machine alone.
            slot: Which one, >= 0; None for the lowest that is free.
            hosts: What the configuration asks for; None for what the directory has.
            default_hosts: What a new slot gets when nothing is asked for.
            timeout: Seconds to wait for an owner that is about to end.

        Raises:
            ConfigError: The slot has an owner, is not this user's, or does not fit; see the
                message. Nothing was changed.
            StoreError: The disk failed or is full.
        """
        try:
            number, lock = _take_slot(data_dir / "slots", slot, timeout)
        except OSError as error:
            message = (
                f"ClusterConfig.data_dir: {error.filename or data_dir}: {error.strerror}; "
                "give a folder on a local disk that this user may write"
            )
            raise ConfigError(message, data_dir=str(data_dir)) from error
        path = data_dir / "slots" / str(number)
        try:
            identity = _read_identity(path)
            if identity is None:
                identity = Identity(uuid.uuid4().hex, hosts or default_hosts)
                _write(path / "node", _identity_to_bytes(identity))
            elif hosts is not None and hosts != identity.hosts:
                message = (
                    f"ClusterConfig.hosts_per_node is {hosts}, and {path} was made for "
                    f"{identity.hosts}, which says where each shard is; leave the setting out, or "
                    "drain the node and give it a new data directory"
                )
                raise ConfigError(  # noqa: TRY301 - the lock goes whatever is wrong
                    message, here=hosts, stored=identity.hosts, path=str(path)
                )
        except BaseException:
            lock.release()
            raise
        return cls(number, path, lock, identity)

    def release(self) -> None:
        """Gives the slot up; its stores must be closed."""
        self._lock.release()

    def store_path(self, host: int | None) -> Path:
        """The file of a host's store, from 0; None for the root group's."""
        return self.path / f"store-{'root' if host is None else host}.db"

    def store_of(self, shard: int) -> Path:
        """The file that a shard is in."""
        return self.store_path(shard % self.identity.hosts)

    # Boots

    def ask_boot(self, draw: Callable[[int], int] = secrets.randbits) -> BootAsk:
        """What to ask the root group for next; it is durable when this returns.

        Args:
            draw: Gives so many random bits.

        Raises:
            StoreError: The disk failed or is full; ask for nothing.
        """
        identity = self.identity
        if identity.intent is None:
            self._own = (identity.registered[0] + 1, 1 + draw(62))
            self._save(intent=self._own)
            return BootAsk(*self._own, identity.registered[1], is_own=True)
        is_own = identity.intent == self._own
        return BootAsk(*identity.intent, identity.registered[1], is_own=is_own)

    def boot_registered(self, boot: int, nonce: int) -> bool:
        """The root group has confirmed this pair; whether this process may answer now.

        An answer to anything but the present intent changes nothing.

        Raises:
            StoreError: As `ask_boot`; the answer may come again.
        """
        if (boot, nonce) == self.identity.intent:
            self._save(registered=(boot, nonce), intent=None)
        return self._own is not None and self.identity.registered == self._own

    # The cluster

    def check_cluster(self, name: str) -> None:
        """Does nothing when the directory is fresh or of the cluster of this name.

        Raises:
            ConfigError: It is another cluster's.
        """
        mine = self.identity.name
        if self.identity.cluster_id and mine != name:
            message = (
                f"{self.path} holds a node of cluster {mine!r}, not of {name!r}; give each cluster "
                "of a machine its own ClusterConfig.data_dir"
            )
            raise ConfigError(message, here=name, stored=mine, path=str(self.path))

    def joined(
        self, cluster_id: str, name: str, *, node: int, recovery_no: int, agreed: str
    ) -> None:
        """Remembers the cluster that this node is a member of; durable when this returns.

        Raises:
            ConfigError: It is another cluster's, or of it in another place; nothing was changed.
            StoreError: As `ask_boot`.
        """
        mine = self.identity
        if mine.cluster_id and (mine.cluster_id, mine.node) != (cluster_id, node):
            message = (
                f"{self.path} holds node {mine.node} of cluster {mine.cluster_id} ({mine.name!r}), "
                f"and was told to be node {node} of {cluster_id} ({name!r}); move the folder away "
                "to join as a new node"
            )
            raise ConfigError(message, here=cluster_id, stored=mine.cluster_id)
        if recovery_no < mine.recovery_no:
            message = (
                f"{self.path} has seen recovery {mine.recovery_no} of cluster {name!r}, and was "
                f"told of {recovery_no}: those who say so were left behind by a forced recovery"
            )
            raise ConfigError(message, here=recovery_no, stored=mine.recovery_no)
        self._save(
            cluster_id=cluster_id, name=name, node=node, recovery_no=recovery_no, agreed=agreed
        )

    def read_record(self) -> Record | None:
        """The newest record this node had saved; None when there is none that can be read."""
        path = self.path / "record"
        try:
            return record_from_bytes(_opened(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            _logger.warning("%s cannot be read, and will be learned anew: %s", path, error)
            return None

    def save_record(self, record: Record) -> None:
        """Keeps a newer record, so that the next start knows whom to ask.

        Raises:
            StoreError: As `ask_boot`; the record before it is still there.
        """
        _write(self.path / "record", _sealed(record_to_bytes(record)))

    def _save(self, **changes: Any) -> None:
        identity = replace(self.identity, **changes)
        if identity != self.identity:
            _write(self.path / "node", _identity_to_bytes(identity))
            self.identity = identity


def _take_slot(slots: Path, slot: int | None, timeout: float) -> tuple[int, FileLock]:
    _make_private(slots)
    if slot is not None:
        lock = _try_slot(slots, slot, timeout)
        if lock is None:
            owner = FileLock.owner(slots / str(slot) / "lock")
            message = (
                f"slot {slot} of {slots.parent} is in use by {owner}; end it, or give this node "
                "another label jido.slot or ClusterConfig.data_dir"
            )
            raise ConfigError(message, slot=slot, data_dir=str(slots.parent))
        return slot, lock
    end = monotonic() + timeout
    while existing := sorted(int(one.name) for one in slots.iterdir() if one.name.isdecimal()):
        for number in existing:
            lock = _try_slot(slots, number, 0.0)
            if lock is not None:
                return number, lock
        if monotonic() >= end:
            break
        sleep(_PAUSE_S)
    for number in itertools.count():
        lock = _try_slot(slots, number, 0.0)
        if lock is not None:
            return number, lock
    raise AssertionError("numbers do not end")


def _try_slot(slots: Path, number: int, timeout: float) -> FileLock | None:
    path = slots / str(number)
    _make_private(path)
    return FileLock.take(path / "lock", timeout=timeout)


def _make_private(path: Path) -> None:
    """The folder is there, this user's, and nobody else may look into it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid != os.geteuid():
        message = (
            f"{path} belongs to user {found.st_uid}, and this process runs as {os.geteuid()}; run "
            "the node as that user, or give it another ClusterConfig.data_dir"
        )
        raise ConfigError(message, path=str(path))
    if found.st_mode & 0o077:
        path.chmod(0o700)


def _read_identity(path: Path) -> Identity | None:
    """Who the slot belongs to; None for a fresh one."""
    file = path / "node"
    remedy = (
        "a node does not guess who it is: restore the file, or move the folder away, so that the "
        "node joins as a new one, and remove the old one from the cluster"
    )
    if not file.exists():
        if any(path.glob("store-*.db")):
            raise ConfigError(f"{file} is missing and its stores are there; {remedy}")
        return None
    try:
        data = json.loads(_opened(file.read_bytes()))
        form, intent = data.pop("format"), data.pop("intent")
        registered = tuple(data.pop("registered"))
        identity = Identity(**data, registered=registered, intent=intent and tuple(intent))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{file} cannot be read ({error}); {remedy}", path=str(file)) from error
    if form != FORMAT:
        message = f"{file} has format {form}, and this release knows {FORMAT}: install a newer one"
        raise ConfigError(message, here=FORMAT, stored=form, path=str(file))
    return identity


def _identity_to_bytes(identity: Identity) -> bytes:
    return _sealed(json.dumps({"format": FORMAT, **asdict(identity)}, indent=1).encode())


def _sealed(content: bytes) -> bytes:
    """With a checksum on a line of its own before it."""
    return b"%08x\n%b\n" % (crc32(content), content)


def _opened(data: bytes) -> bytes:
    """What was sealed. Raises ValueError when it is not that any more."""
    content = data[9:-1]
    if _sealed(content) != data:
        raise ValueError("its content does not fit its checksum")
    return content


def _write(path: Path, data: bytes) -> None:
    try:
        write_durably(path, data)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}") from error
