"""The tree of a shard: equal when the rows are, and cheap to keep so."""

import subprocess
import sys
import timeit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from jido_state.merkle import MerkleTree
from jido_state.versions import Ballot, Version

KEYS = st.text(max_size=3)
NUMBERS = st.integers(1, 4)
FLAGS = st.integers(0, 7)
ROWS = st.dictionaries(KEYS, st.tuples(NUMBERS, FLAGS), max_size=20)


def version(number: int) -> Version:
    return Ballot(0, 1, 2, 3).version(number)


def tree_of(rows: dict[str, tuple[int, int]], leaves: int = 8) -> MerkleTree:
    tree = MerkleTree(leaves)
    for key, (number, flags) in rows.items():
        tree.put(key, version(number), flags)
    return tree


@given(ROWS, ROWS)
def test_trees_are_equal_exactly_when_the_rows_are(
    mine: dict[str, tuple[int, int]], theirs: dict[str, tuple[int, int]]
) -> None:
    """Root and leaves tell any difference of key, version or flags, and where it is."""
    one, two = tree_of(mine), tree_of(theirs)
    assert (one.root == two.root) == (mine == theirs)
    different = {one.leaf_of(key) for key in {*mine, *theirs} if mine.get(key) != theirs.get(key)}
    assert one.differing(two.digests()) == sorted(different)
    assert one.differing(two.digests(), 4) == sorted(leaf for leaf in different if leaf >= 4)
    listed = [key for leaf in range(one.size) for key in one.keys_in(leaf)]
    assert sorted(listed) == sorted(mine)


class Rows(RuleBasedStateMachine):
    """Whatever is put and dropped in whatever order, the tree is that of the rows left."""

    @initialize()
    def begin(self) -> None:
        self.tree = MerkleTree(8)
        self.rows: dict[str, tuple[int, int]] = {}

    @rule(key=KEYS, number=NUMBERS, flags=FLAGS)
    def put(self, key: str, number: int, flags: int) -> None:
        self.tree.put(key, version(number), flags)
        self.rows[key] = (number, flags)

    @rule(key=KEYS)
    def drop(self, key: str) -> None:
        self.tree.drop(key)
        self.rows.pop(key, None)

    @invariant()
    def is_that_of_the_rows(self) -> None:
        self.tree.check()
        fresh = tree_of(self.rows)
        assert (self.tree.root, self.tree.digests()) == (fresh.root, fresh.digests())


TestRows = Rows.TestCase


def test_an_empty_tree_has_root_zero() -> None:
    """Before the first row, and after the last is dropped."""
    tree = tree_of({"a": (1, 0), "b": (2, 1)})
    assert tree.root != 0
    tree.drop("a")
    tree.drop("b")
    assert (tree.root, set(tree.digests())) == (0, {0})


def test_trees_of_different_size_do_not_compare() -> None:
    """The error names both sizes; a tree without leaves cannot be."""
    with pytest.raises(ValueError, match="of 4 leaves does not compare with one of 8"):
        MerkleTree(8).differing(MerkleTree(4).digests())
    with pytest.raises(ValueError, match="at least one"):
        MerkleTree(0)


def test_check_finds_a_tree_that_is_wrong() -> None:
    """A digest that does not belong is an assertion, in a leaf as in the root."""
    tree = tree_of({"a": (1, 0)})
    tree.check()
    tree._root ^= 1
    with pytest.raises(AssertionError):
        tree.check()
    tree = tree_of({"a": (1, 0)})
    tree._digests[tree.leaf_of("a")] ^= 1
    with pytest.raises(AssertionError):
        tree.check()


CODE = """
from tests.state.test_merkle import tree_of
print(tree_of({f"agent-{n}": (n % 4, n % 8) for n in range(1000)}, 64).digests())
"""


@pytest.mark.slow
def test_digests_do_not_depend_on_the_hash_seed() -> None:
    """Two processes with different PYTHONHASHSEED have the same tree."""
    outputs = [
        subprocess.run(
            [sys.executable, "-c", CODE],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "4242")
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0].count(",") == 63


@pytest.mark.slow
def test_keys_spread_over_the_leaves() -> None:
    """Of 20,000 ids in 256 leaves none has more than twice its part."""
    tree = MerkleTree(256)
    for number in range(20_000):
        tree.put(f"agent-{number}", version(1), 0)
    assert max(len(tree.keys_in(leaf)) for leaf in range(256)) < 2 * 20_000 / 256


@pytest.mark.slow
def test_a_write_costs_microseconds() -> None:
    """Putting a row takes under 50 us on a busy machine, also among 20,000 others."""
    tree = tree_of({f"agent-{number}": (1, 0) for number in range(20_000)}, 256)
    new = version(2)
    best = min(timeit.repeat(lambda: tree.put("agent-7", new, 1), number=5_000, repeat=5))
    assert best / 5_000 < 50e-6
