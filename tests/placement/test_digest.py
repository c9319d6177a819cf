"""The hash that every node must agree on."""

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jido_placement import h64, shard_of

# Published: another implementation that gives these is compatible. BLAKE2b, 8-byte digest, no key,
# big-endian, over UTF-8.
VECTORS = {
    "": 0xE4A6A0577479B2B4,
    "a": 0x40F89E395B66422F,
    "counter-1": 0x6CC339D024D17F80,
    "node-1/2": 0x133F9B93D5B79ABE,
    "Grüße": 0x06AB58B78490A392,
    "日本語": 0xF419EDD5D4267B48,
    "x" * 128: 0x901CE374E8E12402,
}


@pytest.mark.parametrize("text", VECTORS)
def test_vectors_stay_what_they_were(text: str) -> None:
    """A change of the hash would re-home every agent of every running cluster."""
    assert h64(text) == VECTORS[text]


def test_the_hash_does_not_depend_on_the_process() -> None:
    """Two processes with different hash seeds compute one value."""
    code = "from jido_placement import h64; print(h64('counter-1'))"
    for seed in ("0", "4242"):
        found = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert int(found.stdout) == VECTORS["counter-1"]


@given(st.text(), st.integers(1, 5_000))
def test_a_shard_is_the_hash_modulo_the_number_of_shards(text: str, shards: int) -> None:
    """Every id has exactly one shard, in range, found from the published hash alone."""
    assert 0 <= h64(text) < 2**64
    assert shard_of(text, shards) == h64(text) % shards


def test_ids_that_count_upwards_spread_evenly() -> None:
    """Ids as people write them (agent-1, agent-2, ...) fill 256 shards as chance would.

    Chi squared over 255 degrees of freedom: mean 255, standard deviation 22.6; six of them above
    or below would be no chance.
    """
    ids = 100_000
    counts = Counter(shard_of(f"agent-{number}", 256) for number in range(ids))
    expected = ids / 256
    chi_squared = sum((counts[shard] - expected) ** 2 / expected for shard in range(256))
    assert 255 - 6 * 22.6 < chi_squared < 255 + 6 * 22.6
