"""The tree by which replicas of a shard see, in one number, whether they hold the same.

Theory. Each row has a 64-bit digest of its key, version and flags; a version never names two
contents, so the content itself is not read. A leaf is the XOR of the digests of its keys, the root
the XOR of the leaves: one write changes three numbers, and nothing is ever recomputed. Digests are
made when somebody compares: of a row that was written many times since, only the last one. Replicas
whose roots are equal hold the same; those whose roots differ compare leaves and then list the rows
of the leaves that differ. Two different sets of rows look equal once in 2**64 comparisons.
*Source*: riak_ensemble's synctree, which is kept current at every write.
*Departure*: two levels instead of a tree of sixteen children. All leaves of a shard are 2 KiB at
256 leaves, which one message carries, and a shard of 10,000 agents has 40 of them to a leaf.
"""

from collections.abc import Sequence
from hashlib import blake2b
from struct import Struct
from zlib import crc32

from jido_state.versions import Version

__all__ = ["MerkleTree"]

_ROW = Struct(">HIIHQB")
_pack = _ROW.pack
_number = int.from_bytes


class MerkleTree:
    """Digests of the rows of one shard. Not thread-safe; one writer.

    Invariants: `root` is the XOR of all leaves, a leaf the XOR of its rows (`check` asserts both).
    Two trees compare only when they have the same number of leaves.

    Attributes:
        size: Number of leaves, > 0; fixed.
    """

    __slots__ = ("_digests", "_late", "_root", "_rows", "size")

    def __init__(self, leaves: int = 1024) -> None:
        if leaves < 1:
            raise ValueError(f"a tree of {leaves} leaves: it needs at least one")
        self.size = leaves
        self._root = 0
        self._late: dict[str, tuple[Version, int]] = {}  # put, and not in the digests yet
        self._digests = [0] * leaves
        self._rows: list[dict[str, int]] = [{} for _ in range(leaves)]

    def leaf_of(self, key: str) -> int:
        """The leaf that holds this key, 0 <= result < `size`."""
        return crc32(key.encode()) % self.size

    def put(self, key: str, version: Version, flags: int) -> None:
        """The row of this key has this version and these flags, 0 to 255."""
        self._late[key] = (version, flags)

    @property
    def root(self) -> int:
        """Digest of everything, 0 when there are no rows."""
        if self._late:
            self._catch_up()
        return self._root

    def _catch_up(self) -> None:
        late, self._late = self._late, {}
        for key, (version, flags) in late.items():
            self._put(key, version, flags)

    def _put(self, key: str, version: Version, flags: int) -> None:
        encoded = key.encode()
        leaf = crc32(encoded) % self.size
        digest = _number(blake2b(_pack(*version, flags) + encoded, digest_size=8).digest(), "big")
        rows = self._rows[leaf]
        change = digest ^ rows.get(key, 0)
        rows[key] = digest
        self._digests[leaf] ^= change
        self._root ^= change

    def drop(self, key: str) -> None:
        """There is no row of this key, whether there was one or not."""
        self._late.pop(key, None)
        leaf = crc32(key.encode()) % self.size
        digest = self._rows[leaf].pop(key, 0)
        self._digests[leaf] ^= digest
        self._root ^= digest

    def digests(self) -> tuple[int, ...]:
        """The leaves' digests, in order."""
        self._catch_up()
        return tuple(self._digests)

    def differing(self, digests: Sequence[int], start: int = 0) -> list[int]:
        """The leaves from `start` on that differ from another tree's, in order.

        Raises:
            ValueError: The other tree has another number of leaves.
        """
        if len(digests) != self.size:
            raise ValueError(
                f"a tree of {len(digests)} leaves does not compare with one of {self.size}: "
                "the number of leaves must be equal on all replicas"
            )
        self._catch_up()
        own = self._digests
        return [leaf for leaf in range(start, self.size) if own[leaf] != digests[leaf]]

    def keys_in(self, leaf: int) -> list[str]:
        """The keys of a leaf, sorted."""
        self._catch_up()
        return sorted(self._rows[leaf])

    def check(self) -> None:
        """Asserts the invariants, from the rows' digests up."""
        self._catch_up()
        root = 0
        for leaf, rows in enumerate(self._rows):
            digest = 0
            for key, each in rows.items():
                assert self.leaf_of(key) == leaf
                digest ^= each
            assert digest == self._digests[leaf]
            root ^= digest
        assert root == self._root
