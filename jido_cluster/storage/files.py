"""Locks that die with their process, and small files that are there whole or not at all.

Theory. A POSIX record lock belongs to a process: the kernel drops it when the process ends, however
it ends, and a forked child does not have it. But it also goes when the process closes *any*
descriptor of the file, so a lock has a file of its own which nothing else opens, and a process
remembers which ones it holds. A small file is replaced by rename, after its bytes are on the disk;
the folder is synced, or a power cut could bring the old name back.
*Source*: fcntl(2), "Advisory record locking"; Pillai et al., All file systems are not created equal
(2014), for the order of syncs.
"""

import fcntl
import os
import threading
from pathlib import Path
from time import monotonic, sleep
from typing import Final

__all__ = ["FileLock", "sync_folder", "write_durably"]

_PAUSE_S: Final = 0.02  # between looks whether a dying owner is gone

_held: set[str] = set()  # by this process
_held_mutex = threading.Lock()


class FileLock:
    """An exclusive lock on a file of its own, until `release` or the end of the process."""

    __slots__ = ("_descriptor", "_name", "path")

    def __init__(self, path: Path, name: str, descriptor: int) -> None:
        """Use `take`."""
        self.path = path
        self._name = name
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: Path, *, timeout: float = 0.0) -> "FileLock | None":
        """The lock, or None when somebody still holds it after so many seconds.

        Args:
            path: Made if it is not there; its folder must be. Never open it otherwise.
            timeout: Seconds to wait for an owner that is about to end, >= 0.
        """
        end = monotonic() + timeout
        while (lock := cls._try(path)) is None and monotonic() < end:
            sleep(_PAUSE_S)
        return lock

    @classmethod
    def _try(cls, path: Path) -> "FileLock | None":
        name = os.path.realpath(path)
        with _held_mutex:
            if name in _held:
                return None
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            _held.add(name)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        return cls(path, name, descriptor)

    def release(self) -> None:
        """Gives it up; the second time nothing happens."""
        with _held_mutex:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
                _held.discard(self._name)

    @staticmethod
    def owner(path: Path) -> str:
        """Who took the lock last, for a message: "process 17", or "an unknown process"."""
        if os.path.realpath(path) in _held:
            return f"this process, {os.getpid()}"  # reading the file would drop the lock
        try:
            text = path.read_text(encoding="ascii")
        except (OSError, ValueError):
            text = ""
        return f"process {text}" if text.isdigit() else "an unknown process"


def sync_folder(folder: Path) -> None:
    """The names in this folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, data: bytes) -> None:
    """The file has this content, and after a crash either this or what it had before.

    Raises:
        OSError: It may have either; after a failed sync the process should end.
    """
    draft = path.with_name(path.name + ".draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    draft.replace(path)
    sync_folder(path.parent)
