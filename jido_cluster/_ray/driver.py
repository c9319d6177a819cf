"""Connecting to the runtime on a Ray cluster, and starting it when it is not there."""

import asyncio
import contextlib
import secrets
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import ray
from ray import cloudpickle
from ray.exceptions import RayError

from jido_cluster._ray import session
from jido_cluster._ray.discovery import node_actors
from jido_cluster._ray.names import SUPERVISOR, namespace, node_actor
from jido_cluster._ray.process import Settings
from jido_cluster._ray.supervisor import count_nodes, make_supervisor
from jido_cluster._ray.transport import (
    RayTransport,
    call,
    call_again,
    is_not_installed,
    translate,
)
from jido_cluster.config import ClusterConfig
from jido_cluster.connection import Connection
from jido_cluster.errors import ClusterUnavailableError, ConfigError, JidoError
from jido_cluster.ports import PeerGoneError, PeerTroubleError
from jido_cluster.runtime.actions import import_modules
from jido_cluster.runtime.client import Client
from jido_cluster.runtime.seen import session_key

CALL_SECONDS: Final = 60.0
READY_SECONDS: Final = 120.0  # for the runtime to be up on every node
LED_SECONDS: Final = 30.0  # for every shard to have a leader, which takes a few
NEAR_SECONDS: Final = 5.0  # for somebody who has nothing to do first
LOOK_SECONDS: Final = 0.1


class RuntimeDriver:
    """A connection's way to the cluster's supervisor."""

    def __init__(self, settings: Settings, transport: RayTransport) -> None:
        self._settings = settings
        self._transport = transport

    async def ship(self, definition: type) -> None:
        """Send a definition of `__main__` to every node; others have to be importable there.

        Raises:
            ConfigError: The cluster runs fixed modules, or the definition cannot be pickled.
        """
        if definition.__module__ != "__main__":
            return
        name = f"{definition.__module__}.{definition.__qualname__}"
        try:
            data = cloudpickle.dumps(definition)  # type: ignore[no-untyped-call]
        except Exception as error:
            message = f"{name} cannot be sent to the cluster: {error}; put it in a module"
            raise ConfigError(message) from error
        supervisor = await self._transport.handle(SUPERVISOR)
        await call_again(lambda: supervisor.ship.remote(name, data), CALL_SECONDS)

    async def disconnect(self) -> None:
        """Close the connections; the runtime does not know who is connected."""
        self._transport.close()

    async def shutdown(self) -> None:
        """End every process of the runtime."""
        supervisor = await self._transport.handle(SUPERVISOR)
        await call_again(supervisor.shutdown.remote, CALL_SECONDS)
        ray.kill(supervisor, no_restart=True)


async def connect_ray(
    address: str, *, name: str, config: ClusterConfig | None, start: bool
) -> Connection:
    """A connection to the runtime `name` on the Ray cluster at `address`.

    Raises:
        ClusterUnavailableError: No Ray cluster, or no runtime on it and `start` is False.
        ConfigError: Settings or releases differ, or the runtime is not installed on a node.
    """
    await asyncio.to_thread(session.join, address)
    where = namespace(name)
    settings, is_supervised = await _running_settings(where)
    if settings is None:
        if not start:
            message = (
                f"the runtime {name!r} is not running on the Ray cluster at {address!r}; connect "
                "with start=True, or start it with 'jido-cluster start'"
            )
            raise ClusterUnavailableError(message)
        settings = await _start_runtime(address, name, config or ClusterConfig())
    if config is not None:
        config.check_agrees(settings.config.agreed())
    _check_release(settings)
    transport = RayTransport(where, settings.token, node_actor(_near_node()))
    if start and is_supervised:
        # Whoever only looks, or stops the runtime, does not wait for a node that never comes up.
        await _wait_ready(transport)
    connection = await _connection(settings, transport, config)
    if start:
        await _wait_led(connection.client)
    return connection


async def connect_near(settings: Settings, node_id: str) -> Connection:
    """The connection of a process of the runtime itself."""
    transport = RayTransport(settings.namespace, settings.token, node_actor(node_id))
    return await _connection(settings, transport, None)


async def _connection(
    settings: Settings, transport: RayTransport, config: ClusterConfig | None
) -> Connection:
    try:
        async with asyncio.timeout(CALL_SECONDS):
            transport.also_near(await node_actors(settings.namespace))
            view = await transport.newer_view("")
    except (PeerTroubleError, TimeoutError) as error:
        message = f"no node of the runtime {settings.cluster!r} says who is where: {error}"
        raise ClusterUnavailableError(message, retry_after=1.0) from error
    client = Client(transport, view)
    client.session_key = session_key(settings.token)
    await client.start()
    driver = RuntimeDriver(settings, transport)
    used = settings.config
    if config is not None and "call_timeout" in config.model_fields_set:
        used = used.model_copy(update={"call_timeout": config.call_timeout})
    return Connection(settings.cluster, client, used, driver, settings.address)


async def _running_settings(where: str) -> tuple[Settings | None, bool]:
    """The settings in force, None if nothing runs; and whether the supervisor itself gave them.

    Any node has them as well: while the supervisor is out of reach, until Ray has noticed and
    makes it elsewhere, agents are served, and who connects is not to wait for it.
    """
    transport = RayTransport(where)
    trouble: BaseException | None = None
    for seconds in (NEAR_SECONDS, CALL_SECONDS):
        try:
            supervisor = await transport.handle(SUPERVISOR)
            found: Settings = await call_again(supervisor.running.remote, seconds)
        except PeerGoneError:
            return None, True
        except PeerTroubleError as error:
            trouble = error
        else:
            return found, True
        of_node = await _settings_of_a_node(transport, where)
        if of_node is not None:
            return of_node, False
    message = f"the runtime's supervisor does not answer: {trouble}; try again"
    raise ClusterUnavailableError(message, retry_after=1.0) from trouble


async def _settings_of_a_node(transport: RayTransport, where: str) -> Settings | None:
    """What the first node that answers says; all are asked, since some may be dead."""

    async def ask(name: str) -> Settings | None:
        try:
            handle = await transport.handle(name)
            found: Settings | None = await call(handle.running.remote(), NEAR_SECONDS)
        except (PeerTroubleError, JidoError):
            return None
        return found

    try:
        names = await node_actors(where)
    except PeerTroubleError:
        return None
    asked = [asyncio.ensure_future(ask(name)) for name in names]
    try:
        for answer in asyncio.as_completed(asked):
            found = await answer
            if found is not None:
                return found
        return None
    finally:
        for one in asked:
            one.cancel()


async def _start_runtime(address: str, name: str, config: ClusterConfig) -> Settings:
    import_modules(config.modules)
    wanted = Settings(
        cluster=name,
        namespace=namespace(name),
        address=address,
        token=secrets.token_hex(32),
        config=config,
        release=release(),
        expect=await asyncio.to_thread(count_nodes),
    )
    try:
        return await make_supervisor(wanted)
    except (PeerTroubleError, RayError) as error:
        raise _not_started(error) from error


def _not_started(error: BaseException) -> JidoError:
    if is_not_installed(error):
        message = (
            "the Ray cluster cannot import jido_cluster: run 'pip install jido-cluster' in the "
            "environment of 'ray start' on every node, or give ClusterConfig(runtime_env=...)"
        )
        return ConfigError(message)
    message = f"the runtime did not start: {str(error)[:500]}"
    return ClusterUnavailableError(message, retry_after=1.0)


async def _wait_ready(transport: RayTransport) -> None:
    """Return when every living Ray node is a member, or was one.

    Raises:
        ClusterUnavailableError: One is not, after two minutes; the message says why.
        ConfigError: The runtime is not installed on one.
    """
    supervisor = await transport.handle(SUPERVISOR)
    loop = asyncio.get_running_loop()
    end = loop.time() + READY_SECONDS
    while True:
        missing = await call_again(supervisor.missing.remote, CALL_SECONDS)
        if not missing:
            return
        for node, reason in missing:
            if "not installed" in reason or "cannot be imported" in reason:
                message = f"node {node}: {reason}"
                raise ConfigError(message, node=node)
        if loop.time() > end:
            shown = "; ".join(f"{node}: {reason or 'still starting'}" for node, reason in missing)
            message = f"the runtime is not up on every node after {READY_SECONDS:.0f} s: {shown}"
            raise ClusterUnavailableError(message, retry_after=5.0)
        await asyncio.sleep(LOOK_SECONDS)


async def _wait_led(client: Client) -> None:
    """Return when every shard is led, so that the first calls do not wait.

    A shard whose replicas are not there has no leader for long: its calls say so themselves.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LED_SECONDS):
            while not all(client.view.leaders):  # noqa: ASYNC110 - the client has no event for it
                await asyncio.sleep(LOOK_SECONDS)


def _near_node() -> str:
    try:
        return str(ray.get_runtime_context().get_node_id())
    except (RayError, RuntimeError) as error:
        raise translate(error) from error


def release() -> str:
    """This installation's release."""
    try:
        return version("jido-cluster")
    except PackageNotFoundError:
        return "unreleased"


def _check_release(settings: Settings) -> None:
    mine = release()
    if settings.release != mine:
        message = (
            f"this process runs jido-cluster {mine}, the cluster {settings.release}; install the "
            "same release in both"
        )
        raise ConfigError(message, here=mine, running=settings.release)
