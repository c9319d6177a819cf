"""Ids: what they may contain, and that two never meet."""

import os
import threading

import pytest

from jido_cluster.errors import InvalidInputError
from jido_cluster.ids import check_id, new_id


def test_new_ids_are_ids_and_sort_by_time() -> None:
    """Each keeps the rule; those of one thread are distinct and in order."""
    made = [new_id("run-") for _ in range(1000)]
    assert [check_id(one) for one in made] == made
    assert all(one.startswith("run-") for one in made)
    assert len(set(made)) == len(made)
    assert sorted(made) == made


def test_threads_do_not_make_the_same_id() -> None:
    """Four threads that start together make distinct ids."""
    made: list[str] = []
    barrier = threading.Barrier(4)

    def work() -> None:
        barrier.wait()
        made.extend([new_id() for _ in range(500)])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 2000


def test_a_forked_child_makes_ids_of_its_own() -> None:
    """The child inherits the counter, not the salt."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(into, new_id().encode())
        os._exit(0)
    os.close(into)
    os.waitpid(child, 0)
    with os.fdopen(out) as stream:
        theirs = stream.read()
    assert len(theirs) == 31
    assert theirs[-12:] != new_id()[-12:]


@pytest.mark.parametrize("value", ["a", "A.b:c-d_1", "x" * 128])
def test_good_ids_pass(value: str) -> None:
    """The value itself comes back."""
    assert check_id(value) is value


@pytest.mark.parametrize("value", ["", "a b", "a\n", "ü", "x" * 129, "a/b", None, 5, b"a"])
def test_bad_ids_are_refused(value: object) -> None:
    """The error names the value and the rule."""
    with pytest.raises(InvalidInputError, match=r"is not an id: an id matches \^\[A-Za") as raised:
        check_id(value)
    assert raised.value.details["value"].startswith(repr(value)[:20])


def test_a_prefix_has_to_keep_the_rule() -> None:
    """A prefix that would spoil the id is refused."""
    with pytest.raises(InvalidInputError):
        new_id("my run ")
