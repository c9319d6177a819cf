"""Agents with `durability="memory"`: no disk is waited for, and one loss is survived."""

import pytest

from jido_cluster import OutcomeUnknownError, Reply
from jido_cluster._local.disk import MemoryDisk
from tests.runtime.agents import Hasty, Tally
from tests.runtime.support import local, run


class Held:
    """Disks that stand still from `hold` to `release`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self._flush = MemoryDisk._flush
        self._disks: list[MemoryDisk] = []

    def hold(self) -> None:
        def held(disk: MemoryDisk) -> None:
            self._disks.append(disk)

        self._patch.setattr(MemoryDisk, "_flush", held)

    def release(self) -> None:
        self._patch.setattr(MemoryDisk, "_flush", self._flush)
        for disk in self._disks:
            self._flush(disk)


def test_no_disk_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others have it when its leader is lost with nothing written."""
    disks = Held(monkeypatch)

    async def main() -> None:
        async with local(3) as cluster:
            hasty = await cluster.spawn(Hasty, "h-1")
            tally = await cluster.spawn(Tally, "t-1")
            disks.hold()
            reply: Reply[int] = await hasty.request(Hasty.add)
            assert (reply.value, reply.durability) == (1, "memory")
            made = await cluster.spawn(Hasty, "h-2", value=5)
            with pytest.raises(OutcomeUnknownError):
                await tally.options(timeout=0.5).call(Tally.add)
            await cluster.kill((await hasty.info()).node)
            disks.release()
            assert await hasty.call(Hasty.add) == 2
            assert await made.call(Hasty.add) == 6

    run(main)


def test_a_single_node_waits_for_its_disk() -> None:
    """There is no second memory, and the answer does not say so."""

    async def main() -> None:
        async with local(1) as cluster:
            hasty = await cluster.spawn(Hasty, "h-1")
            assert (await hasty.request(Hasty.add)).durability == "local"

    run(main)
