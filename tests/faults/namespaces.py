"""Machines of one test run: network namespaces on a bridge, apart from the host's network.

Each node has a namespace of its own with one interface, and a folder of its own that all its
processes see at one path, the same on every node, as on machines of their own. The bridge has a
namespace too, so nothing of the host's network is touched. Needs root, `ip` and `nft`.

Names hold the process id of the owner and when that started, so that what a dead run left behind
is told from what a living one uses, and is removed by the next run.
"""

import ctypes
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Final, Self

import psutil

PREFIX: Final = "faults-"
SUBNET: Final = "10.77.0"
END_SECONDS: Final = 20.0  # for killed processes to be gone; big ones on a busy machine are slow
_NAMESPACES: Final = Path("/run/netns")
_OWNED: Final = re.compile(re.escape(PREFIX) + r"(\d+)\.(\d+)\.\d+(-.+)?")
_CLONE_NEWNET: Final = 0x40000000
_TOOLS: Final = {"ip": "iproute2", "nft": "nftables", "mount": "mount", "umount": "mount"}
# The private folder is mounted over the common path in the mount namespace that `ip netns exec`
# makes for each command, and that all its children share.
_ENTER: Final = 'mount --rbind "$1" "$2" && shift 2 && exec "$@"'
_numbers = itertools.count(1)


def missing(path: str | None = None) -> str:
    """What this machine lacks to play several ones, as a sentence; empty when nothing.

    Args:
        path: Where tools are looked for; None for `$PATH`.
    """
    absent = [tool for tool in _TOOLS if shutil.which(tool, path=path) is None]
    if absent:
        packages = sorted({_TOOLS[tool] for tool in absent})
        return f"{', '.join(absent)} not found: install {', '.join(packages)}"
    if os.geteuid() != 0:
        return "network namespaces need root"
    probe = f"{PREFIX}{_owner()}.0-probe"
    try:
        _run("ip", "netns", "add", probe)
        try:
            _run("ip", "netns", "exec", probe, "nft", "add", "table", "inet", "probe")
        finally:
            _run("ip", "netns", "delete", probe)
    except OSError as error:
        return f"no network namespaces here (CAP_NET_ADMIN and CAP_SYS_ADMIN needed): {error}"
    return ""


class Network:
    """Nodes that reach each other and nobody else. Close it, or use it in `with`."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        sweep()
        self.id: Final = f"{PREFIX}{_owner()}.{next(_numbers)}"
        self.folder: Final = Path(tempfile.gettempdir()) / self.id
        self.here: Final = self.folder / "n"
        """The path at which each node sees its own folder. Short: Ray puts sockets below it."""
        self._addresses: dict[str, str] = {}
        self._numbers = itertools.count(1)
        self.here.mkdir(parents=True)
        self._switch = f"{self.id}-switch"
        _run("ip", "netns", "add", self._switch)
        _run("ip", "-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", self._switch, "link", "set", "bridge", "up")
        for name in names:
            self.add(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def names(self) -> tuple[str, ...]:
        """The nodes, in the order in which they were added."""
        return tuple(self._addresses)

    def add(self, name: str) -> str:
        """Make one more node; its address."""
        number = next(self._numbers)
        namespace, port = self.namespace(name), f"port{number}"
        self.private(name).mkdir()
        _run("ip", "netns", "add", namespace)
        # Both ends are made where they belong: the host never sees the pair.
        pair = ("eth0", "netns", namespace, "type", "veth", "peer", "name", port)
        _run("ip", "link", "add", *pair, "netns", self._switch)
        _run("ip", "-n", self._switch, "link", "set", port, "master", "bridge", "up")
        address = f"{SUBNET}.{number}"
        _run("ip", "-n", namespace, "address", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _run("ip", "-n", namespace, "link", "set", device, "up")
        self._addresses[name] = address
        return address

    def address(self, name: str) -> str:
        """The node's address."""
        return self._addresses[name]

    def namespace(self, name: str) -> str:
        """The name of the node's network namespace."""
        return f"{self.id}-{name}"

    def private(self, name: str) -> Path:
        """The node's folder, as the host sees it."""
        return self.folder / name

    def command(self, name: str, command: Sequence[str]) -> list[str]:
        """The command, for a process on the node."""
        enter = ("ip", "netns", "exec", self.namespace(name), "sh", "-c", _ENTER, "sh")
        return [*enter, str(self.private(name)), str(self.here), *command]

    def add_disk(self, name: str, folder: str, size: int) -> Path:
        """Give the node a file system of `size` bytes in this folder of its own; the host's path.

        It lives as long as the network: what is on it survives the node's processes. It counts for
        processes that are started afterwards.
        """
        place = self.private(name) / folder
        place.mkdir()
        _run("mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", self.id, str(place))
        return place

    def filter(self, name: str, rules: str) -> None:
        """Give the node's packet filter these commands, all of them or none."""
        command = ("ip", "netns", "exec", self.namespace(name), "nft", "-f", "-")
        _run(*command, text=rules)

    def socket(self, name: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
        """A socket on the node for this process: a socket stays in the namespace it was made in."""
        made: list[socket.socket] = []

        def make() -> None:
            # Only this thread enters, and it ends; setns is called by number as Python 3.12 has it.
            with (_NAMESPACES / self.namespace(name)).open() as namespace:
                library = ctypes.CDLL(None, use_errno=True)
                if library.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
                made.append(socket.socket(socket.AF_INET, kind))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        return made[0]

    def listens(self, name: str, port: int) -> bool:
        """Whether a process of the node takes connections at the port."""
        with closing(self.socket(name)) as probe:
            probe.settimeout(1.0)
            return probe.connect_ex((self.address(name), port)) == 0

    def pids(self, name: str) -> list[int]:
        """Every process on the node, whoever started it. Only the kernel can say that for sure."""
        return _inhabitants(self.namespace(name))

    def processes(self, name: str, title: str = "") -> list[psutil.Process]:
        """The processes on the node whose command line holds the text."""
        found = []
        for pid in self.pids(name):
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                if title in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def kill(self, name: str) -> None:
        """End all the node's processes at once, as a loss of power would."""
        _kill_inhabitants(self.namespace(name))

    def close(self) -> None:
        """End all processes of all nodes, and remove everything. Idempotent."""
        for namespace in _namespaces():
            if namespace.startswith(f"{self.id}-"):
                _remove_namespace(namespace)
        _remove_folder(self.folder)


def sweep() -> list[str]:
    """Remove what runs left behind whose process is gone; the names of that."""
    removed = []
    for namespace in _namespaces():
        if _is_orphan(namespace):
            try:
                _remove_namespace(namespace)
            except OSError:
                if (_NAMESPACES / namespace).exists():
                    raise
                continue  # another run was quicker
            removed.append(namespace)
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if _is_orphan(folder.name):
            _remove_folder(folder)
            removed.append(str(folder))
    return removed


def _is_orphan(name: str) -> bool:
    match = _OWNED.fullmatch(name)
    return match is not None and _started(int(match[1])) != match[2]


def _owner() -> str:
    return f"{os.getpid()}.{_started(os.getpid())}"


def _started(pid: int) -> str:
    """When the process started, in ticks since boot; empty when there is none.

    With it a process id names one process: ids are used again.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[19]


def _namespaces() -> list[str]:
    if not _NAMESPACES.is_dir():
        return []
    return sorted(one.name for one in _NAMESPACES.iterdir() if _OWNED.fullmatch(one.name))


def _inhabitants(namespace: str) -> list[int]:
    wanted = (_NAMESPACES / namespace).stat()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            # A process that is ending, a zombie too, is in no namespace any more.
            with suppress(OSError):
                one = (entry / "ns" / "net").stat()
                if (one.st_dev, one.st_ino) == (wanted.st_dev, wanted.st_ino):
                    found.append(int(entry.name))
    return found


def send_signal(pids: Iterable[int], number: signal.Signals) -> None:
    """Send it to those that are still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _kill_inhabitants(namespace: str) -> None:
    # Stopped first, so that none sees another die: with the power all is gone at one moment.
    send_signal(_inhabitants(namespace), signal.SIGSTOP)
    end = time.monotonic() + END_SECONDS
    while pids := _inhabitants(namespace):
        if time.monotonic() > end:
            message = f"{pids} in {namespace} outlived SIGKILL by {END_SECONDS} s"
            raise TimeoutError(message)
        send_signal(pids, signal.SIGKILL)
        time.sleep(0.01)


def _remove_namespace(namespace: str) -> None:
    _kill_inhabitants(namespace)
    _run("ip", "netns", "delete", namespace)


def _remove_folder(folder: Path) -> None:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        place = line.split()[1]
        if place.startswith(f"{folder}/"):
            _run("umount", place)
    shutil.rmtree(folder, ignore_errors=True)


def _run(*command: str, text: str | None = None) -> None:
    done = subprocess.run(
        command, input=text, check=False, capture_output=True, text=True, timeout=30.0
    )
    if done.returncode != 0:
        message = f"{' '.join(command)}: {done.stderr.strip()}"
        raise OSError(message)
