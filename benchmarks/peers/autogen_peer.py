"""AutoGen core's distributed runtime: a host, a worker with the agents, and a worker that asks.

Messages go through the host by gRPC, as its documentation sets it up; three processes.
"""

import asyncio
import sys
from dataclasses import dataclass

from autogen_core import AgentId, MessageContext, RoutedAgent, rpc
from autogen_core import try_get_known_serializers_for_type as serializers
from autogen_ext.runtimes.grpc import GrpcWorkerAgentRuntime, GrpcWorkerAgentRuntimeHost

from benchmarks.peers.program import HOST, free_port, run, serve_in, wait_end

MODULE = "benchmarks.peers.autogen_peer"


@dataclass
class Add:
    """Asks a counter to add."""

    amount: int


@dataclass
class Value:
    """What it then holds."""

    value: int


class Counter(RoutedAgent):
    """An agent with one field."""

    def __init__(self) -> None:
        super().__init__("counts")
        self.value = 0

    @rpc
    async def add(self, message: Add, ctx: MessageContext) -> Value:  # noqa: ARG002 - its form
        """The value after adding to it."""
        self.value += message.amount
        return Value(self.value)


async def connect(address: str) -> GrpcWorkerAgentRuntime:
    """A worker that knows the messages."""
    runtime = GrpcWorkerAgentRuntime(host_address=address)
    for kind in (Add, Value):
        runtime.add_message_serializer(serializers(kind))
    await runtime.start()
    return runtime


async def host(address: str) -> None:
    """The process between the workers, until the input ends."""
    broker = GrpcWorkerAgentRuntimeHost(address=address)
    broker.start()
    await wait_end()
    await broker.stop()


async def serve(address: str) -> None:
    """The worker with the agents, until the input ends."""
    runtime = await connect(address)
    await Counter.register(runtime, "counter", Counter)
    await wait_end()
    await runtime.stop()


class AutoGen:
    """The side that asks."""

    async def start(self) -> None:
        """As the protocol says."""
        address = f"{HOST}:{free_port()}"
        serve_in(MODULE, "host", address)
        serve_in(MODULE, "serve", address)
        self._runtime = await connect(address)

    async def ask(self, number: int) -> object:
        """As the protocol says."""
        return await self._runtime.send_message(Add(1), AgentId("counter", str(number)))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run({"host": host, "serve": serve}[sys.argv[1]](sys.argv[2]))
    else:
        run(AutoGen(), "autogen-core", "autogen-ext")
