"""The guards of one worker process: when they have exited, nothing of the worker is left.

    python -I -S process_guard.py <parent's pid> <lifeline> <control> <channel> <command...>

A guard starts the command and waits until that ends, or something comes on the lifeline, or the
lifeline closes, or the parent is gone. Then it kills every process that descends from it, reaps
them all, and exits as the command did: with its exit code, or 128 + the number of the signal that
killed it. The parent starts an outer guard (its lifeline is the control socket); that one's command
is an inner guard, on a lifeline between the two; and that one's is the worker, with the channel.

Theory. Linux hands the orphans of a process to its nearest ancestor that is a subreaper, which a
guard is. So whatever the worker starts stays below the guards, also a daemon that has forked twice
and has a session of its own. To kill them all, each is stopped before its children are looked at:
what is stopped makes no more. That is repeated until no child is left to wait for, and a guard
without children has no descendants. There are two guards because one may be killed: Ray, for one,
kills the children of a worker of its own that it ends by force. Whichever is left ends the rest.
Both hold the control socket, so that the parent sees it close when both are gone.

What they cannot end: a process in an uninterruptible wait of the kernel, for as long as that lasts;
one that changed its user to another (a guard may not signal it); what was started by somebody else
on the worker's behalf (a container, a unit of systemd, a job on another machine); and what the
worker has started, but not the worker itself, when both guards are killed in the same moment. While
a child remains that cannot be ended, the guard stays and tries on.

It runs as a script, isolated and without `site`, to be small: only the standard library, and
nothing of this project.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys

PR_SET_CHILD_SUBREAPER = 36
LOOK_SECONDS = 5.0  # the parent's end is seen at once, but for a fork of it that holds the socket
AGAIN_SECONDS = (0.02, 1.0)  # between attempts to end what is left: the first, and at most
WAIT_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main(parent: int, lifeline: int, control: int, channel: int, command: list[str]) -> int:
    """Guards one command until nothing of it is left; how it ended."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "this kernel has no subreapers")
    ears, mouth = os.pipe()
    os.set_blocking(mouth, False)
    signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
    for number in WAIT_SIGNALS:
        signal.signal(number, lambda *_: None)
    if lifeline == control:
        # The outer one. Its end of the inner one's lifeline closes when it dies, not before.
        inner, _ = os.pipe()
        inherited = [inner, control, channel]
        this = [sys.executable, "-I", "-S", __file__, str(os.getpid())]
        command = [*this, *map(str, inherited), *command]
    else:
        inherited = [channel]
        command = [*command, str(os.getpid())]
    for fd in {lifeline, control, channel, *inherited}:
        os.set_inheritable(fd, fd in inherited)
    child = os.posix_spawn(command[0], command, os.environ, setsigdef=[signal.SIGPIPE])
    os.close(channel)
    status = wait(child, parent, lifeline, ears)
    pause, longest = AGAIN_SECONDS
    while not reap_all():
        end_family()
        if select.select([ears], [], [], pause)[0]:
            os.read(ears, 4096)
        pause = min(2 * pause, longest)
    return status


def wait(child: int, parent: int, lifeline: int, ears: int) -> int:
    """How the child ended, or is to end when it is told to or the parent is gone."""
    while True:
        ready, _, _ = select.select([lifeline, ears], [], [], LOOK_SECONDS)
        heard = os.read(ears, 4096) if ears in ready else b""
        # Orphans that have ended are reaped too, as they would be by init.
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                if found[0] == child:
                    return code_of(found[1])
        is_told = any(number != signal.SIGCHLD for number in heard)
        if lifeline in ready or is_told or os.getppid() != parent:
            return 128 + signal.SIGKILL


def code_of(status: int) -> int:
    """The exit code that tells of a wait status."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def end_family() -> None:
    """Stops all descendants of this process, then kills them."""
    stopped: set[int] = set()
    while found := descendants(os.getpid()) - stopped:
        for pid in found:
            send(pid, signal.SIGSTOP)
        stopped |= found
    for pid in stopped:
        send(pid, signal.SIGKILL)


def descendants(root: int) -> set[int]:
    """Processes below ``root`` that have not ended."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208 - pathlib would be a tenth of this process
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", "rb") as file:  # noqa: PTH123 - as above
                # "pid (name) state parent ...", and the name may hold anything.
                fields = file.read().rpartition(b")")[2].split()
                if fields[0] not in (b"Z", b"X"):
                    children.setdefault(int(fields[1]), []).append(int(entry))
    found: set[int] = set()
    ahead = [root]
    while ahead:
        below = children.get(ahead.pop(), [])
        found.update(below)
        ahead += below
    return found


def send(pid: int, number: signal.Signals) -> None:
    """Signals a process, unless it is gone or another user's."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def reap_all() -> bool:
    """Takes leave of children that have ended; True when there are no others."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return True
    return False


if __name__ == "__main__":
    pid, first, second, third = map(int, sys.argv[1:5])
    sys.exit(main(pid, first, second, third, sys.argv[5:]))
