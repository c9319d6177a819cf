"""The worker's side of a request, in a thread of this process: what it answers to what."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from pydantic_core import from_json

from jido_cluster.exec import process_guard, process_worker
from jido_cluster.exec.process_frames import SIZES, join, split
from tests.exec import process_actions as actions

HEADER: dict[str, Any] = {
    "module": actions.__name__,
    "run_id": "r1",
    "attempt": 2,
    "trace": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "limit": None,
    "deadline": None,
    "retries": None,
}


class Asker:
    """This side of a worker's channel."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    def send(self, action: str, params: bytes, data: bytes = b"{}", **header: Any) -> None:
        self._channel.sendall(join({**HEADER, "action": action, **header}, params, data))

    def receive(self) -> tuple[Mapping[str, Any], bytes]:
        sizes = self._channel.recv(SIZES.size, socket.MSG_WAITALL)
        content = self._channel.recv(sum(SIZES.unpack(sizes)), socket.MSG_WAITALL)
        header, first, second = split(sizes, content)
        assert second == b""
        return header, first

    def ask(self, *arguments: Any, **header: Any) -> tuple[Mapping[str, Any], bytes]:
        """The answer to a request, whether or not the action began before."""
        self.send(*arguments, **header)
        found, value = self.receive()
        return self.receive() if "begin" in found else (found, value)


@pytest.fixture
def asker() -> Iterator[Asker]:
    """Of a worker that serves in a thread, until the channel closes."""
    here, there = socket.socketpair()
    thread = threading.Thread(target=process_worker.serve, args=(there, 60.0))
    thread.start()
    yield Asker(here)
    here.close()
    thread.join(20.0)
    there.close()
    assert not thread.is_alive()


def test_it_says_that_it_begins_and_then_what_came_of_it(asker: Asker) -> None:
    """The context is the caller's attempt, with the nearer of its two ends."""
    asker.send("process.echo", b'{"value":1}', b'{"user":"ann"}', limit=5.0, deadline=1e12)
    assert asker.receive() == ({"begin": True}, b"")
    header, value = asker.receive()
    assert header.keys() == {"has_children"}
    found = from_json(value)
    assert (found["run_id"], found["attempt"], found["trace"]) == ("r1", 2, HEADER["trace"])
    assert found["data"] == {"user": "ann"}
    assert 4.0 < found["remaining"] <= 5.0
    _, value = asker.ask("process.echo", b'{"value":1}')
    assert from_json(value)["remaining"] is None


def test_every_kind_of_action_runs(asker: Asker) -> None:
    """A coroutine, a class with hooks, and a function without a context."""
    assert asker.ask("process.make", b'{"name":"ab"}')[1] == b'{"name":"ab","size":2}'
    assert asker.ask("process.hooked", b'{"n":4}')[1] == b"40"


@pytest.mark.parametrize(
    ("name", "params", "header", "kind"),
    [
        ("process.echo", b"{}", {}, "validation_error"),
        ("process.nobody", b"{}", {}, "not_registered"),
        ("process.echo", b"{}", {"module": "no_such_module"}, "config_error"),
        ("process.echo", b"{}", {"module": "tests.exec.broken_module"}, "config_error"),
    ],
)
def test_what_cannot_begin_is_answered_at_once(
    asker: Asker, name: str, params: bytes, header: dict[str, Any], kind: str
) -> None:
    """It has not run."""
    asker.send(name, params, **header)
    found, _ = asker.receive()
    assert found["begun"] is False
    assert found["error"]["kind"] == kind


@pytest.mark.parametrize(
    ("how", "kind", "types"),
    [
        ("own", "process_declined", None),
        ("wrong", "invalid_output", None),
        ("odd", "execution_error", ["tests.exec.process_actions.Odd", "builtins.Exception"]),
        ("exit", "execution_error", ["builtins.SystemExit", "builtins.BaseException"]),
        ("pydantic", "execution_error", []),
    ],
)
def test_what_an_action_raises_is_its_answer(
    asker: Asker, how: str, kind: str, types: list[str] | None
) -> None:
    """With the names of its classes, unless it must never be retried; the worker goes on."""
    found, _ = asker.ask("process.fails", f'{{"how":"{how}"}}'.encode())
    assert found["begun"] is True
    assert found["error"]["kind"] == kind
    if types is not None:
        assert found["types"][:2] == types
    assert asker.ask("process.hooked", b'{"n":1}')[1] == b"10"


def test_retries_that_were_taken_are_told(asker: Asker) -> None:
    """Of the budget that came along."""
    found, _ = asker.ask("process.retries", b"{}", retries=2)
    assert found["retries"] == 2
    assert asker.ask("process.hooked", b'{"n":1}', retries=2)[0]["retries"] == 0


def test_processes_that_are_left_are_told(asker: Asker) -> None:
    """Those of this process, here: running, and ended without being waited for."""
    child = subprocess.Popen(["sleep", "1000"])
    try:
        assert asker.ask("process.hooked", b'{"n":1}')[0]["has_children"] is True
    finally:
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert asker.ask("process.hooked", b'{"n":1}')[0]["has_children"] is True
        child.wait()


def test_it_ends_when_nothing_comes_for_a_while() -> None:
    """And when the other side hangs up in the middle of a request."""
    here, there = socket.socketpair()
    with here, there:
        process_worker.serve(there, 0.01)
        here.sendall(join({"a": 1})[:5])
        here.shutdown(socket.SHUT_WR)
        process_worker.serve(there, 60.0)


def test_the_guard_sees_whom_it_guards() -> None:
    """Children and their children, not who has ended; and it speaks of ends as shells do."""
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", "import os, time; os.fork(); time.sleep(1000)"]
    )
    try:
        while len(found := process_guard.descendants(child.pid)) < 1:
            pass
        assert child.pid in process_guard.descendants(os.getpid())
        assert found <= process_guard.descendants(os.getpid())
    finally:
        for pid in (*found, child.pid):
            process_guard.send(pid, signal.SIGKILL)
        child.wait()
    assert child.pid not in process_guard.descendants(os.getpid())
    process_guard.send(child.pid, signal.SIGKILL)  # gone: nothing happens
    assert (process_guard.code_of(9), process_guard.code_of(3 << 8)) == (137, 3)
