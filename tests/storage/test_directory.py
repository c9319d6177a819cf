"""The data directory: one owner for each slot, one identity for each node, honest boots."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jido_cluster.errors import ConfigError
from jido_cluster.storage import files
from jido_cluster.storage.directory import BootAsk, DataDirectory
from jido_cluster.storage.files import FileLock, write_durably
from jido_state.store import StoreError
from tests.placement.records import formed
from tests.storage.support import flip

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys
from pathlib import Path
from jido_cluster.storage.directory import DataDirectory
directory = DataDirectory.take(Path(sys.argv[1]), slot=int(sys.argv[2]))
print(directory.identity.uuid, flush=True)
sys.stdin.read()
"""


def hold(data_dir: Path, slot: int) -> "tuple[subprocess.Popen[str], str]":
    """A process that owns a slot, and the uuid it found."""
    command = [sys.executable, "-c", HOLD, str(data_dir), str(slot)]
    pipe = subprocess.PIPE
    child = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
    assert child.stdout is not None
    return child, child.stdout.readline().strip()


def test_a_node_finds_itself_again(tmp_path: Path) -> None:
    """Identity, number of hosts and cluster outlast the process; the folder is private."""
    first = DataDirectory.take(tmp_path / "data", hosts=3)
    assert first.slot == 0
    assert first.path.stat().st_mode & 0o777 == 0o700
    assert first.store_path(2) == first.path / "store-2.db"
    assert first.store_path(None) == first.path / "store-root.db"
    assert first.store_of(7) == first.store_path(1)
    first.check_cluster("any")
    first.joined("c1", "prod", node=4, recovery_no=1, agreed="f00")
    identity = first.identity
    first.release()
    again = DataDirectory.take(tmp_path / "data", default_hosts=8)
    assert again.identity == identity
    assert (identity.hosts, identity.node, identity.cluster_id) == (3, 4, "c1")
    again.check_cluster("prod")
    again.joined("c1", "prod", node=4, recovery_no=2, agreed="f01")
    assert again.identity.recovery_no == 2
    again.release()


def test_what_a_directory_is_not_for_is_refused(tmp_path: Path) -> None:
    """Another cluster, another place in it, an older recovery, another number of hosts."""
    directory = DataDirectory.take(tmp_path, hosts=2)
    directory.joined("c1", "prod", node=4, recovery_no=3, agreed="f00")
    identity = directory.identity
    with pytest.raises(ConfigError, match="node of cluster 'prod', not of 'test'"):
        directory.check_cluster("test")
    with pytest.raises(ConfigError, match="told to be node 4 of c2"):
        directory.joined("c2", "prod", node=4, recovery_no=3, agreed="f00")
    with pytest.raises(ConfigError, match="told to be node 5 of c1"):
        directory.joined("c1", "prod", node=5, recovery_no=3, agreed="f00")
    with pytest.raises(ConfigError, match="has seen recovery 3 .* told of 2"):
        directory.joined("c1", "prod", node=4, recovery_no=2, agreed="f00")
    assert directory.identity == identity
    directory.release()
    with pytest.raises(ConfigError, match=r"hosts_per_node is 4, and .* made for 2"):
        DataDirectory.take(tmp_path, hosts=4)
    DataDirectory.take(tmp_path, hosts=2).release()


def test_a_slot_has_one_owner(tmp_path: Path) -> None:
    """A told slot is waited for and then refused, naming the owner; the next free one is taken."""
    child, uuid = hold(tmp_path, 0)
    try:
        with pytest.raises(ConfigError, match=f"slot 0 of .* in use by process {child.pid}"):
            DataDirectory.take(tmp_path, slot=0, timeout=0.05)
        other = DataDirectory.take(tmp_path, timeout=0.05)
        assert other.slot == 1
        assert other.identity.uuid != uuid
        with pytest.raises(ConfigError, match=f"in use by this process, {os.getpid()}"):
            DataDirectory.take(tmp_path, slot=1, timeout=0.0)
        other.release()
    finally:
        child.kill()
        child.communicate()
    mine = DataDirectory.take(tmp_path, slot=0)
    assert mine.identity.uuid == uuid
    mine.release()


def test_a_dying_owner_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No new node is made while the owner of the only slot is about to end."""
    child, uuid = hold(tmp_path, 0)
    looks = 0

    def sleep(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            child.kill()
            child.wait()

    monkeypatch.setattr("jido_cluster.storage.directory.sleep", sleep)
    directory = DataDirectory.take(tmp_path)
    assert (directory.slot, directory.identity.uuid, looks) == (0, uuid, 3)
    directory.release()
    child.communicate()
    held = FileLock.take(tmp_path / "lock")
    assert held is not None
    monkeypatch.setattr(files, "sleep", lambda _: held.release())
    again = FileLock.take(tmp_path / "lock", timeout=60)
    assert again is not None
    again.release()
    again.release()


def test_a_boot_is_known_here_before_it_is_asked_for(tmp_path: Path) -> None:
    """The first pair is confirmed; the next start counts on from it, under a nonce of its own."""
    numbers = iter((10, 20, 30))
    directory = DataDirectory.take(tmp_path)
    ask = directory.ask_boot(lambda _: next(numbers))
    assert ask == BootAsk(1, 11, 0, is_own=True)
    assert directory.ask_boot(lambda _: next(numbers)) == ask
    assert not directory.boot_registered(1, 12)
    assert directory.boot_registered(1, 11)
    assert directory.boot_registered(1, 11)  # told twice
    directory.release()
    second = DataDirectory.take(tmp_path)
    assert not second.boot_registered(1, 11)  # of the life before
    assert second.ask_boot(lambda _: next(numbers)) == BootAsk(2, 21, 11, is_own=True)
    assert second.boot_registered(2, 21)
    second.release()


def test_a_pair_that_was_found_lets_nobody_answer(tmp_path: Path) -> None:
    """After a crash between asking and hearing, the old question is settled, then a new one put."""
    numbers = iter((10, 20))
    first = DataDirectory.take(tmp_path)
    first.ask_boot(lambda _: next(numbers))
    first.release()
    second = DataDirectory.take(tmp_path)
    assert second.ask_boot(lambda _: next(numbers)) == BootAsk(1, 11, 0, is_own=False)
    assert not second.boot_registered(1, 11)
    assert second.ask_boot(lambda _: next(numbers)) == BootAsk(2, 21, 11, is_own=True)
    assert second.boot_registered(2, 21)
    second.release()


def test_a_node_does_not_guess_who_it_is(tmp_path: Path) -> None:
    """An identity that rotted, is gone, or is of a later release is refused with the remedy."""
    directory = DataDirectory.take(tmp_path)
    file = directory.path / "node"
    directory.release()
    content = file.read_bytes()
    for place in range(0, len(content), 7):
        flip(file, place)
        with pytest.raises(ConfigError, match="move the folder away"):
            DataDirectory.take(tmp_path)
        file.write_bytes(content)
    newer = content.split(b"\n", 1)[1][:-1].replace(b'"format": 1', b'"format": 2')
    from jido_cluster.storage.directory import _sealed

    file.write_bytes(_sealed(newer))
    with pytest.raises(ConfigError, match="format 2, and this release knows 1"):
        DataDirectory.take(tmp_path)
    file.unlink()
    (directory.path / "store-0.db").touch()
    with pytest.raises(ConfigError, match="is missing and its stores are there"):
        DataDirectory.take(tmp_path)
    (directory.path / "store-0.db").unlink()
    DataDirectory.take(tmp_path).release()


def test_a_folder_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's, or no folder at all: the error names it and what to do."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="give a folder on a local disk"):
        DataDirectory.take(tmp_path / "file")
    (tmp_path / "slots").mkdir(mode=0o755)
    DataDirectory.take(tmp_path).release()
    assert (tmp_path / "slots").stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(ConfigError, match="this process runs as 12345"):
        DataDirectory.take(tmp_path)


def test_the_record_is_kept_for_the_next_start(tmp_path: Path) -> None:
    """The newest record comes back; one that rotted is as good as none."""
    directory = DataDirectory.take(tmp_path)
    assert directory.read_record() is None
    for size in (1, 3):
        directory.save_record(formed(size))
    assert directory.read_record() == formed(3)
    flip(directory.path / "record", 40)
    assert directory.read_record() is None
    directory.release()


def test_a_file_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever step fails, the old content is there, or the new one."""
    path = tmp_path / "f"
    write_durably(path, b"old")
    steps = []
    for name in ("write", "fsync", "close"):
        real = getattr(os, name)

        def step(*args: object, name: str = name, real: object = real) -> object:
            steps.append(name)
            return real(*args)  # type: ignore[operator]

        monkeypatch.setattr(os, name, step)
    write_durably(path, b"new")
    assert steps == ["write", "fsync", "close", "fsync", "close"]
    assert path.read_bytes() == b"new"

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        write_durably(path, b"newer")
    assert path.read_bytes() == b"new"
    directory = tmp_path / "data"
    with pytest.raises(StoreError, match="node cannot be written: Input/output error"):
        DataDirectory.take(directory)
    monkeypatch.undo()
    taken = DataDirectory.take(directory)
    taken.release()
