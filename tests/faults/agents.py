"""The agent that faults are tried on; hosts import this module."""

from jido_cluster import Agent, on


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
