"""The faults are what they say: silence is silent, one way is one way, loss loses its share."""

import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.faults import namespaces
from tests.faults.faults import Faults, FullDisk
from tests.faults.namespaces import Network, missing, sweep
from tests.faults.nodes import wait_until

pytestmark = pytest.mark.usefixtures("machines")

A, B, C = "node-1", "node-2", "node-3"
PORT = 7000
SILENCE = 0.4  # seconds without an answer; on a bridge one takes well under a millisecond


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network((A, B, C)) as made:
        yield made


@pytest.fixture
def faults(network: Network) -> Iterator[Faults]:
    made = Faults(network)
    yield made
    made.heal()


def listen(network: Network, name: str) -> socket.socket:
    listening = network.socket(name)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((network.address(name), PORT))
    listening.listen()
    listening.settimeout(5.0)
    return listening


def dial(network: Network, source: str, target: str, seconds: float = 5.0) -> socket.socket:
    dialled = network.socket(source)
    dialled.settimeout(seconds)
    try:
        dialled.connect((network.address(target), PORT))
    except OSError:
        dialled.close()
        raise
    return dialled


def is_heard(network: Network, source: str, target: str, seconds: float = 10.0) -> bool:
    """Whether a datagram gets there in time."""
    kind = socket.SOCK_DGRAM
    with closing(network.socket(source, kind)) as one, closing(network.socket(target, kind)) as two:
        two.bind((network.address(target), PORT))
        two.settimeout(seconds)
        one.sendto(b"hello", (network.address(target), PORT))
        try:
            return two.recv(100) == b"hello"
        except TimeoutError:
            return False


def test_a_black_hole_is_silent_and_heals(network: Network, faults: Faults) -> None:
    """Neither a new nor an open connection hears of it; what was sent arrives after it."""
    with closing(listen(network, B)) as listening, closing(dial(network, A, B)) as one:
        two = listening.accept()[0]
        with closing(two):
            faults.black_hole((A, C), (B,))
            with pytest.raises(TimeoutError):
                dial(network, A, B, SILENCE)
            one.sendall(b"late")
            two.settimeout(SILENCE)
            with pytest.raises(TimeoutError):
                two.recv(4)
            assert is_heard(network, A, C)
            assert not is_heard(network, C, B, SILENCE)
            faults.heal()
            two.settimeout(10.0)
            assert two.recv(4) == b"late"


def test_a_one_way_cut_is_one_way(network: Network, faults: Faults) -> None:
    """What is sent against it arrives."""
    faults.one_way((A,), (B,))
    assert not is_heard(network, A, B, SILENCE)
    assert is_heard(network, B, A)
    assert is_heard(network, A, C)


def test_a_refusing_cut_is_heard_of_at_once(network: Network, faults: Faults) -> None:
    """New connections are refused and open ones are reset, from either side."""
    with closing(listen(network, B)) as listening:
        pairs = []
        for _ in range(2):
            one = dial(network, A, B)
            pairs.append((one, listening.accept()[0]))
        faults.refuse((A,), (B, C))
        started = time.monotonic()
        with pytest.raises(ConnectionRefusedError):
            dial(network, A, B)
        (one, two), (three, four) = pairs
        four.settimeout(5.0)
        for sender in (one, four):
            sender.sendall(b"x")
            with pytest.raises(ConnectionResetError):
                sender.recv(1)
        assert time.monotonic() - started < 4.0  # what is not told waits for 5
        for end in (one, two, three, four):
            end.close()
        faults.heal()
        dial(network, A, B).close()


def test_loss_loses_about_its_share(network: Network, faults: Faults) -> None:
    """Of 3,000 datagrams, 30 % with an error of six standard deviations; none without."""
    for share, error in ((0.3, 150), (0.0, 0)):
        faults.lose(share, (A, B))
        assert abs(_count_arrivals(network, 3000) - 3000 * (1 - share)) <= error
    with pytest.raises(ValueError, match="probability"):
        faults.lose(30)


def _count_arrivals(network: Network, count: int) -> int:
    kind, arrived = socket.SOCK_DGRAM, 0
    with closing(network.socket(A, kind)) as one, closing(network.socket(B, kind)) as two:
        two.bind((network.address(B), PORT))
        for number in range(1, count + 1):
            one.sendto(b"x", (network.address(B), PORT))
            if number % 50 == 0:  # the receiver's buffer must not lose any itself
                two.settimeout(SILENCE if number == count else 0.0)
                with suppress(TimeoutError, BlockingIOError):
                    while two.recv(100):
                        arrived += 1
    return arrived


def test_each_node_sees_its_own_folder(network: Network) -> None:
    """One path, another content on each node."""
    for name in (A, B):
        command = network.command(name, ["sh", "-c", 'echo "$0" > "$1"/name', name])
        subprocess.run([*command, str(network.here)], check=True, timeout=10.0)
    assert (network.private(A) / "name").read_text() == "node-1\n"
    assert (network.private(B) / "name").read_text() == "node-2\n"
    assert list(network.here.iterdir()) == []


def test_a_full_disk_takes_nothing_until_there_is_space(network: Network) -> None:
    """A small file system of a node is full, and then is not."""
    folder = network.add_disk(C, "disk", 4 << 20)
    with FullDisk(folder):
        with pytest.raises(OSError, match="No space left"):
            (folder / "file").write_bytes(b"x" * 5000)
        (folder / "file").unlink()
    (folder / "file").write_bytes(b"x" * 5000)


def test_the_host_sees_nothing_of_it() -> None:
    """A network changes neither the interfaces nor the routes of the host."""

    def host() -> tuple[str, ...]:
        commands = (["ip", "-brief", "link"], ["ip", "-brief", "address"], ["ip", "route"])
        done = [subprocess.run(one, check=True, capture_output=True, text=True) for one in commands]
        return tuple(one.stdout for one in done)

    before = host()
    with Network((A, B)) as network:
        assert host() == before
        assert network.pids(A) == []


def test_closing_leaves_nothing() -> None:
    """Neither namespaces nor folders, mounts or processes."""
    network = Network((A, B))
    network.add_disk(A, "disk", 1 << 20)
    process = subprocess.Popen(network.command(A, ["sleep", "1000"]))
    wait_until(lambda: network.processes(A, "sleep"), "the start of a process")
    network.close()
    network.close()
    assert process.wait(5.0) == -signal.SIGKILL
    assert _leftovers(network.id) == []


def test_killing_a_node_kills_nobody_elses_processes(network: Network) -> None:
    """All processes of the node end, however they were started; those of others run on."""
    daemon = ["sh", "-c", "setsid sleep 1000 & setsid sleep 1001 & wait"]
    killed = subprocess.Popen(network.command(A, daemon))
    other = subprocess.Popen(network.command(B, ["sleep", "1002"]))
    # The shell's own command line names both as well.
    wait_until(lambda: len(network.processes(A, "sleep 100")) >= 3, "the start of the daemons")
    wait_until(lambda: network.processes(B, "sleep 1002"), "the start of the other process")
    network.kill(A)
    assert network.pids(A) == []
    assert killed.wait(5.0) == -signal.SIGKILL
    assert network.pids(B) == [other.pid]
    network.kill(B)
    other.wait(5.0)


def test_what_a_dead_run_left_is_removed_and_a_living_ones_is_not(network: Network) -> None:
    """A run that was killed has left a namespace with a process in it; the next run finds both."""
    program = (
        "import subprocess, sys\n"
        "from tests.faults.namespaces import Network\n"
        "network = Network(['node-1'])\n"
        "network.add_disk('node-1', 'disk', 1 << 20)\n"
        "subprocess.Popen(network.command('node-1', ['sleep', '1000']))\n"
        "sys.stdout.write(network.id + '\\n')\n"
        "sys.stdout.flush()\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, cwd=_root(), **pipes) as run:  # type: ignore[call-overload]
        assert run.stdout is not None
        dead = run.stdout.readline().strip()
        assert len(_leftovers(dead)) == 4
        assert dead not in " ".join(sweep())
        run.kill()
        run.wait(5.0)
        assert " ".join(sweep()).count(dead) == 3
    assert _leftovers(dead) == []
    assert network.id in " ".join(_leftovers(network.id))


def _root() -> Path:
    return Path(__file__).resolve().parents[2]


def _leftovers(owner: str) -> list[str]:
    """Namespaces, the folder and the mounts of a network."""
    places = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    found = [name for name in namespaces._namespaces() if name.startswith(owner)]
    found += [place for place in places if f"/{owner}/" in place]
    return found + [str(one) for one in Path(tempfile.gettempdir()).glob(f"{owner}*")]


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    """The reason of a skip names the tools and the packages they are in."""
    assert missing() == ""
    assert missing(str(tmp_path)) == (
        "ip, nft, mount, umount not found: install iproute2, mount, nftables"
    )
