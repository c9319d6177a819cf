"""What a store keeps when its process is killed, its disk fails, or its file rots."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jido_cluster.storage.log_check import count_lost_commits
from jido_cluster.storage.reading import read_store
from jido_cluster.storage.rows import header_to_bytes, row_to_bytes
from jido_cluster.storage.sqlite_file import log_of
from jido_cluster.storage.sqlite_store import EXIT_CODE, SqliteStore
from jido_state.messages import Row
from jido_state.record import Record
from jido_state.store import HEADER_KEY, Change, StoreError, StoreLostError, Table
from jido_state.versions import Version
from tests.storage.support import HEADER, Ear, contents, flip, image, opened, put
from tests.storage.writer import FAILS_AT, batch

ROOT = Path(__file__).resolve().parents[2]


def start(path: Path, mode: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tests.storage.writer", str(path), mode]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def check_whole(store: SqliteStore) -> None:
    """The content is what the writer's batches up to the append counter make, each whole."""
    number = store.durable
    expected = {change.key: change.data for each in range(1, number + 1) for change in batch(each)}
    assert contents(store) == expected


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    """Killed again and again while it writes, a store goes on from whole batches each time."""
    path = tmp_path / "s.db"
    for acks in (1, 40, 7, 90, 23):
        child = start(path, "write")
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(acks + 1)]
        child.send_signal(signal.SIGKILL)
        rest, errors = child.communicate()
        assert child.returncode == -signal.SIGKILL, errors
        told = [line for line in (b"".join(lines) + rest).split(b"\n") if line]
        with opened(path) as store:
            assert store.durable >= max(map(int, told))
            check_whole(store)


@pytest.mark.slow
def test_a_sync_that_fails_ends_the_process(tmp_path: Path) -> None:
    """It is not tried again, nothing later is acknowledged, and the next start keeps the rest."""
    path = tmp_path / "s.db"
    child = start(path, "SYNC_FAILS")
    output, errors = child.communicate(timeout=60)
    assert child.returncode == EXIT_CODE
    assert b"the store has failed, this process ends" in errors
    assert b"SQLITE_IOERR" in errors
    told = [int(line) for line in output.split()]
    assert told == sorted(told)
    with opened(path) as store:
        assert max(told) <= store.durable < FAILS_AT + 4
        check_whole(store)


def small_batch(number: int) -> list[Change[bytes]]:
    return [put("last", b"%d" % number), put(f"own-{number}", b"x" * 3000)]


def logged(folder: Path, commits: int) -> Path:
    """The files as a process leaves them that was killed after so many commits."""
    ear = Ear()
    with opened(folder / "s.db", ear) as store:
        for number in range(1, commits + 1):
            ear.wait(store.append(small_batch(number)))
        return image(store.path, folder / "image")


def test_a_torn_log_loses_only_the_commit_that_was_torn(tmp_path: Path) -> None:
    """Wherever the log ends, the store opens with all commits before that place, whole."""
    commits = 6
    source = logged(tmp_path, commits)
    size = log_of(source).stat().st_size
    seen = set()
    random_ = random.Random(5)
    for number in range(40):
        copy = image(source, tmp_path / f"torn-{number}")
        end = random_.randrange(size + 1)
        with log_of(copy).open("r+b") as log:
            log.truncate(end)
        with opened(copy) as store:
            seen.add(store.durable)
            expected = {
                change.key: change.data
                for each in range(1, store.durable + 1)
                for change in small_batch(each)
            }
            assert contents(store) == expected
    assert len(seen) > 3


def test_a_log_that_rotted_is_noticed(tmp_path: Path) -> None:
    """One flipped bit costs at most the last commit, or else the store is known to be lost."""
    commits = 6
    source = logged(tmp_path, commits)
    assert count_lost_commits(log_of(source)) == 0
    size = log_of(source).stat().st_size
    lost = 0
    random_ = random.Random(6)
    for number in range(60):
        copy = image(source, tmp_path / f"rot-{number}")
        flip(log_of(copy), random_.randrange(size), random_.randrange(8))
        if count_lost_commits(log_of(copy)):
            with pytest.raises(StoreLostError, match="has rotted"):
                SqliteStore.open(copy, lambda *_: None)
            lost += 1
            continue
        with opened(copy) as store:
            assert store.durable >= commits - 1
            assert store.get(Table.RECORD, 1, "last") == b"%d" % store.durable
    assert lost > 20


def test_a_log_is_sound_while_it_is_written_over(tmp_path: Path) -> None:
    """Frames of an earlier generation behind the end of the log are no lost commits."""
    ear = Ear()
    with opened(tmp_path / "s.db", ear) as store:
        for number in range(1, 12):
            ear.wait(store.append(small_batch(number)))
        with store._turn():
            store._checkpoint("PASSIVE")
        ear.wait(store.append(small_batch(12)))
        copy = image(store.path, tmp_path / "image")
    assert count_lost_commits(log_of(copy)) == 0
    with opened(copy) as again:
        assert again.durable == 12


@pytest.mark.slow
def test_a_file_that_rotted_is_never_taken_for_what_it_is_not(tmp_path: Path) -> None:
    """Whichever byte rots, each key is right, or spoilt, or the replica or the store is lost."""
    path = tmp_path / "s.db"
    rows = {
        f"agent-{number}": Row(
            Version(0, 3, 2, 1, number), content=Record.blank(state=b"x" * (number * 10))
        )
        for number in range(1, 80)
    }
    ear = Ear()
    with opened(path, ear) as store:
        changes = [Change(Table.HEADER, 1, HEADER_KEY, header_to_bytes(1, HEADER))]
        changes += [put(key, row_to_bytes(1, key, row)) for key, row in rows.items()]
        ear.wait(store.append(changes))
    random_ = random.Random(7)
    counts = {"sound": 0, "spoilt": 0, "lost": 0}
    size = path.stat().st_size
    for number in range(250):
        copy = image(path, tmp_path / f"rot-{number % 2}")
        flip(copy, random_.randrange(size), random_.randrange(8))
        try:
            with opened(copy) as store:
                groups, lost = read_store(store)
                durable = store.durable
        except StoreError:
            counts["lost"] += 1
            continue
        assert durable == 1
        if lost:
            counts["lost"] += 1
            continue
        found = groups[1]
        assert found.header == HEADER
        assert sorted((*found.rows, *found.spoilt)) == sorted(rows)
        assert all(rows[key] == row for key, row in found.rows.items())
        counts["spoilt" if found.spoilt else "sound"] += 1
    assert min(counts.values()) > 5, counts
