"""The agents that faults are tried on; hosts import this module."""

import asyncio
import contextlib
import hashlib

from jido_cluster import Agent, JidoError, on


class Register(Agent, name="faults.register", consistency="strong"):
    """One number. Its operations are those of the checker's model of a register."""

    value: int = 0

    @on("register.read", read_only=True)
    async def read(self) -> int:
        """The number."""
        return self.value

    @on("register.write")
    async def write(self, value: int) -> str:
        """Take another number."""
        self.value = value
        return "ok"

    @on("register.cas")
    async def cas(self, expected: int, value: int) -> bool:
        """Take another number if it is the expected one; whether it was."""
        if self.value != expected:
            return False
        self.value = value
        return True

    @on("register.add")
    async def add(self, amount: int) -> int:
        """Add to it; the sum."""
        self.value += amount
        return self.value


class SessionRegister(Register, name="faults.register.session", consistency="session"):
    """One whose reads are as new as what their session has seen."""


class EventualRegister(Register, name="faults.register.eventual", consistency="eventual"):
    """One whose reads may be old."""


def relayed(value: int, fence: str) -> int:
    """What a turn of a relay writes for a value: no two turns write the same.

    So the calls of two turns of one operation are two, and the second is not taken for a repeated
    first one.
    """
    return value * 1_000_000 + int(hashlib.sha256(fence.encode()).hexdigest()[:4], 16)


class Relay(Agent, name="faults.relay", consistency="strong"):
    """Writes into a register from within a turn that lasts."""

    @on("relay.write")
    async def write(self, register: str, value: int, seconds: float, log: str) -> str:
        """Write the value now, and again below zero after a while; note how each went.

        Args:
            register: Whose value.
            value: Positive.
            seconds: Between the two writes.
            log: A file on the node this runs on; each line has the fence of the turn, the value,
                and "ok", "cancelled" or the kind of the error.
        """
        await self._write(register, value, log)
        try:
            await asyncio.sleep(seconds)
        finally:  # a turn that is over is cancelled, and tries it all the same
            await self._write(register, -value, log)
        return self.ctx.fence.token

    async def _write(self, register: str, value: int, log: str) -> None:
        end = "cancelled"
        try:
            number = relayed(value, self.ctx.fence.token)
            await self.ctx.cluster.ref(Register, register).call(Register.write, number)
            end = "ok"
        except JidoError as error:
            end = error.kind
        finally:
            with contextlib.suppress(OSError), open(log, "a") as lines:  # noqa: ASYNC230, PTH123
                lines.write(f"{self.ctx.fence.token} {value} {end}\n")


class LodgingRelay(Relay, name="faults.relay.lodging", isolation="dedicated"):
    """One whose turns run in a process of their own, which nobody cancels when its host is late."""
