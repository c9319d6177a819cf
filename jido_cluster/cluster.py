"""The cluster as users on an event loop see it: `AsyncCluster`.

It is a view of one connection that all views of a process share; `options` makes another view.
`sync_cluster` has the `Cluster` that waits for this one.
"""

import asyncio
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from pathlib import Path
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Literal,
    ParamSpec,
    Self,
    TypeVar,
    Unpack,
    overload,
)

from pydantic_core import from_json, to_json

from jido_cluster import operating
from jido_cluster.agent import Agent, spec_of
from jido_cluster.config import ClusterConfig
from jido_cluster.connection import (
    MAX_TIMEOUT,
    Connection,
    Target,
    check_op,
    check_timeout,
    target_of,
)
from jido_cluster.errors import InvalidInputError, JidoError
from jido_cluster.exec.needs import Needs
from jido_cluster.exec.options import RunOptions
from jido_cluster.exec.outcome import Outcome
from jido_cluster.exec.resource import Resource
from jido_cluster.exec.run import AsyncRun, SyncRun
from jido_cluster.ids import check_id
from jido_cluster.ports import PeerTroubleError
from jido_cluster.refs import AsyncAgentRef, agent_info
from jido_cluster.runrefs import AsyncRunRef, outcome_or_cancel, run_many, start_run
from jido_cluster.runtime.listing import ACTIONS, LIST, STATISTICS
from jido_cluster.runtime.operations import ENSURE, SPAWN
from jido_cluster.runtime.view import Member
from jido_cluster.session import Session
from jido_cluster.types import ActionInfo, AgentInfo, MovePlan, NodeInfo

if TYPE_CHECKING:
    from jido_cluster.testing import AsyncLocalCluster

P = ParamSpec("P")
R = TypeVar("R")
Pm = TypeVar("Pm")
A = TypeVar("A", bound=Agent)
C = TypeVar("C", bound="AsyncCluster")

REACH_SECONDS: Final = 5.0  # within which a host says how it is, or is not reachable
_Ctx = Mapping[str, Any] | None


class Connecting(Coroutine[Any, Any, C]):
    """A connection on its way: `await` it, or use it in `async with`."""

    def __init__(self, work: Coroutine[Any, Any, C]) -> None:
        self._work = work
        self._cluster: C | None = None

    def __await__(self) -> Generator[Any, None, C]:
        return self._work.__await__()

    def send(self, value: Any) -> Any:
        """As a coroutine's."""
        return self._work.send(value)

    def throw(self, *args: Any) -> Any:
        """As a coroutine's."""
        return self._work.throw(*args)

    def close(self) -> None:
        """As a coroutine's."""
        self._work.close()

    async def __aenter__(self) -> C:
        self._cluster = await self._work
        return self._cluster

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._cluster is not None:
            await self._cluster.close()


class AsyncCluster:
    """A cluster, for code on an event loop; bound to the loop and the process that connected."""

    def __init__(
        self, connection: Connection, *, timeout: float | None = None, op_id: str | None = None
    ) -> None:
        self._connection = connection
        self._timeout = timeout
        self._op_id = op_id

    @classmethod
    def connect(
        cls,
        address: str | None = None,
        *,
        name: str = "default",
        config: ClusterConfig | None = None,
        start: bool = True,
    ) -> "Connecting[AsyncCluster]":
        """Connect to the runtime on a Ray cluster.

        Args:
            address: "host:port" of the Ray cluster; "auto" for the one on this machine; "local" for
                a cluster inside this process. None: `$JIDO_ADDRESS`, `$RAY_ADDRESS`, then "auto".
            name: Which of several runtimes on one Ray cluster.
            config: Settings; None adopts those of the running cluster.
            start: Whether to start the runtime on every node when it is not there.

        Raises:
            ClusterUnavailableError: There is none; the message holds the command to start one.
            ConfigError: An agreed setting, or the release, differs from the running cluster's.
        """
        from jido_cluster.connections import connect

        return Connecting(connect(address, name=name, config=config, start=start))

    @classmethod
    def local(
        cls,
        nodes: int = 1,
        *,
        config: ClusterConfig | None = None,
        data_dir: Path | str | None = None,
        resources: Mapping[Resource[Any], Any] | None = None,
        virtual_time: bool = False,
    ) -> "Connecting[AsyncLocalCluster]":
        """Start a cluster of `nodes` nodes inside this process, without Ray.

        Args:
            nodes: How many, 1 to 64; they are called "node-1", "node-2" and so on.
            config: Settings.
            data_dir: Unused: nodes of one process keep their state in memory, over `kill` and
                `restart`, until the cluster is closed.
            resources: What `ctx.use` gives in place of these resources, in this whole process,
                until the cluster is closed; for tests.
            virtual_time: Time stands still until `advance`; for tests.
        """
        from jido_cluster.testing import start_local

        return Connecting(
            start_local(nodes, config, data_dir, resources, virtual_time=virtual_time)
        )

    async def __aenter__(self) -> Self:
        self._connection.check_usable()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Disconnect. On Ray the agents live on; a local cluster ends. Idempotent."""
        from jido_cluster.connections import release

        await release(self._connection)

    async def shutdown(self) -> None:
        """End the runtime for everyone, with all agents in memory; data directories stay."""
        from jido_cluster.connections import release

        self._connection.check_usable()
        await self._connection.driver.shutdown()
        await release(self._connection, for_good=True)

    def options(self, *, timeout: float | None = None, op_id: str | None = None) -> Self:
        """A view with other options; None leaves one as it is."""
        return type(self)(
            self._connection,
            timeout=check_timeout(timeout, self._timeout),
            op_id=check_op(op_id, self._op_id),
        )

    def session(self, token: str | None = None) -> Session:
        """A session: calls made inside its `with` block, to any agents, build on each other.

        Args:
            token: Of an earlier session that is to go on, in whatever process; None for a new one.

        Raises:
            InvalidInputError: It is no token of this cluster.
        """
        return Session(self._connection.client, token)

    # -- agents

    async def spawn(
        self, agent_type: Callable[P, A], agent_id: str, /, *args: P.args, **state: P.kwargs
    ) -> AsyncAgentRef[A]:
        """Create an agent; a ref to it.

        Args:
            agent_type: A subclass of `Agent`.
            agent_id: Free id, `^[A-Za-z0-9._:-]{1,128}$`.
            *args: None; the signature of the type allows them.
            **state: Its fields.

        Raises:
            AgentExistsError: The id is taken. The same `op_id` twice is one spawn.
            InvalidInputError: The id or the state does not validate.
            ExecutionError: `on_start` failed; there is no agent.
        """
        return await self._create(SPAWN, agent_type, agent_id, args, state)

    async def get_or_spawn(
        self, agent_type: Callable[P, A], agent_id: str, /, *args: P.args, **state: P.kwargs
    ) -> AsyncAgentRef[A]:
        """A ref to the agent, created with this state if there was none.

        Raises:
            AgentExistsError: The id belongs to an agent of another type.
        """
        return await self._create(ENSURE, agent_type, agent_id, args, state)

    async def _create(
        self,
        operation: str,
        agent_type: Any,
        agent_id: str,
        args: tuple[Any, ...],
        state: dict[str, Any],
    ) -> AsyncAgentRef[Any]:
        connection = self._connection
        connection.check_usable()
        spec = spec_of(agent_type)
        if args:
            message = f"the state of {spec.name!r} is given by name: spawn(..., field=value)"
            raise InvalidInputError(message)
        target = Target(check_id(agent_id), spec, self._timeout, self._op_id)
        body = to_json([spec.name, spec.new_state(state).decode()])
        await connection.prepare(spec.agent_type)
        await connection.operate(target, operation, body)
        return AsyncAgentRef(connection, Target(target.id, spec, self._timeout))

    @overload
    def ref(self, agent_type: type[A], agent_id: str, /) -> AsyncAgentRef[A]: ...
    @overload
    def ref(self, agent_id: str, /) -> AsyncAgentRef[Any]: ...
    def ref(self, agent_type: Any, agent_id: Any = None, /) -> AsyncAgentRef[Any]:
        """A ref to an agent that may or may not exist; no I/O."""
        target = target_of(agent_type, agent_id)
        return AsyncAgentRef(self._connection, target.with_options(self._timeout, self._op_id))

    @overload
    async def get(self, agent_type: type[A], agent_id: str, /) -> AsyncAgentRef[A]: ...
    @overload
    async def get(self, agent_id: str, /) -> AsyncAgentRef[Any]: ...
    async def get(self, agent_type: Any, agent_id: Any = None, /) -> AsyncAgentRef[Any]:
        """A ref to an agent that exists.

        Raises:
            AgentNotFoundError: There is none.
            InvalidInputError: It is of another type.
        """
        ref = self.ref(agent_type, agent_id) if agent_id is not None else self.ref(agent_type)
        info = await ref.info()
        spec = ref._target.spec
        if spec is not None and info.type != spec.name:
            message = f"agent {ref.id!r} is of type {info.type!r}, not {spec.name!r}"
            raise InvalidInputError(message, agent=ref.id, type=info.type)
        return ref

    async def agents(
        self, *, prefix: str = "", type: type[Agent] | str | None = None
    ) -> AsyncIterator[AgentInfo]:
        """The agents of the cluster, page by page, host by host; not a snapshot.

        Args:
            prefix: Only ids that begin with this.
            type: Only agents of this type, by class or name.
        """
        connection = self._connection
        connection.check_usable()
        name = type if isinstance(type, str) or type is None else spec_of(type).name
        for host in sorted(connection.client.view.addresses):
            after = ""
            while True:
                body = to_json([after, prefix, name])
                try:
                    page = await self._ask_host(host, LIST, body)
                except PeerTroubleError:
                    break  # it is gone: what it led is led elsewhere, and listed there
                rows, more = from_json(page)
                for row in rows:
                    yield agent_info(connection, row)
                if not more:
                    break
                after = rows[-1][0][0]

    async def _ask_host(
        self, host: str, operation: str, body: bytes = b"", *, at_most: float = MAX_TIMEOUT
    ) -> bytes:
        seconds = min(self._timeout or self._connection.config.call_timeout, at_most)
        answer: bytes = await self._connection.client.submit_to_host(
            host, operation, "", body, seconds
        )
        return answer

    # -- actions

    @overload
    async def run(
        self,
        action: type[AsyncRun[Pm, R]],
        params: Pm | Mapping[str, Any] | None = None,
        context: _Ctx = None,
        *,
        needs: Needs | None = None,
        **options: Unpack[RunOptions],
    ) -> R: ...
    @overload
    async def run(
        self,
        action: type[SyncRun[Pm, R]],
        params: Pm | Mapping[str, Any] | None = None,
        context: _Ctx = None,
        *,
        needs: Needs | None = None,
        **options: Unpack[RunOptions],
    ) -> R: ...
    async def run(
        self,
        action: Any,
        params: Any = None,
        context: _Ctx = None,
        *,
        needs: Needs | None = None,
        **options: Any,
    ) -> Any:
        """The result of an action, run on a fit node; a run that nobody waits for is cancelled.

        Raises:
            NoCapableNodeError: No node has what it needs.
            ExecutionError: It failed.
            StillRunningError: The time of the turn or action that waits was up first.
        """
        ref = await start_run(self._connection, action, params, context, needs, options)
        return (await outcome_or_cancel(ref)).unwrap()

    @overload
    async def start(
        self,
        action: type[AsyncRun[Pm, R]],
        params: Pm | Mapping[str, Any] | None = None,
        context: _Ctx = None,
        *,
        needs: Needs | None = None,
        **options: Unpack[RunOptions],
    ) -> AsyncRunRef[R]: ...
    @overload
    async def start(
        self,
        action: type[SyncRun[Pm, R]],
        params: Pm | Mapping[str, Any] | None = None,
        context: _Ctx = None,
        *,
        needs: Needs | None = None,
        **options: Unpack[RunOptions],
    ) -> AsyncRunRef[R]: ...
    async def start(
        self,
        action: Any,
        params: Any = None,
        context: _Ctx = None,
        *,
        needs: Needs | None = None,
        **options: Any,
    ) -> AsyncRunRef[Any]:
        """Start an action on a fit node; a ref to the run."""
        return await start_run(self._connection, action, params, context, needs, options)

    @overload
    async def run_many(
        self,
        action: type[AsyncRun[Pm, R]] | type[SyncRun[Pm, R]],
        items: Iterable[Pm | Mapping[str, Any]],
        context: _Ctx = None,
        *,
        needs: Needs | None = None,
        max_concurrency: int | None = None,
        on_failure: Literal["raise"] = "raise",
        progress: Callable[[Outcome[R]], None] | None = None,
        **options: Unpack[RunOptions],
    ) -> list[R]: ...
    @overload
    async def run_many(
        self,
        action: type[AsyncRun[Pm, R]] | type[SyncRun[Pm, R]],
        items: Iterable[Pm | Mapping[str, Any]],
        context: _Ctx = None,
        *,
        needs: Needs | None = None,
        max_concurrency: int | None = None,
        on_failure: Literal["collect"],
        progress: Callable[[Outcome[R]], None] | None = None,
        **options: Unpack[RunOptions],
    ) -> list[Outcome[R]]: ...
    async def run_many(
        self,
        action: Any,
        items: Iterable[Any],
        context: _Ctx = None,
        *,
        needs: Needs | None = None,
        max_concurrency: int | None = None,
        on_failure: Literal["raise", "collect"] = "raise",
        progress: Any = None,
        **options: Any,
    ) -> list[Any]:
        """Run an action on each item, over the nodes; results in the order of the items.

        Args:
            action: What to run.
            items: The parameters of each run.
            context: Given to every run.
            needs: What the nodes must have.
            max_concurrency: How many at once, >= 1; None: all.
            on_failure: "raise" cancels the rest at the first failure; "collect" returns outcomes.
            progress: Called with each outcome as it comes.
            **options: As for `run`.
        """
        return await run_many(
            self._connection,
            action,
            items,
            context,
            needs=needs,
            max_concurrency=max_concurrency,
            on_failure=on_failure,
            progress=progress,
            options=options,
        )

    # -- the cluster itself

    async def nodes(self) -> list[NodeInfo]:
        """The nodes, sorted by name."""
        connection = self._connection
        connection.check_usable()
        members = connection.client.view.members
        found = await asyncio.gather(*map(self._node_info, members))
        return sorted(found, key=lambda info: info.name)

    async def _node_info(self, member: Member) -> NodeInfo:
        """A node, by what its hosts say of themselves."""
        rows = await asyncio.gather(
            *(self._ask_host(host, STATISTICS, at_most=REACH_SECONDS) for host in member.hosts),
            return_exceptions=True,
        )
        counts = []
        for row in rows:
            if isinstance(row, bytes):
                counts.append(from_json(row))
            elif not isinstance(row, JidoError | ConnectionError):
                raise row
        busy = sum(one["busy"] + one["runs"] for one in counts)
        return NodeInfo(
            id=member.id,
            name=member.name,
            status=member.status,
            is_reachable=0 < len(rows) == len(counts),
            zone=member.zone,
            labels=dict(member.labels),
            agents=sum(one["agents"] for one in counts),
            shards_led=sum(one["shards"] for one in counts),
            load=busy / max(member.weight, 1.0),
        )

    async def preview(self, *, add: Sequence[str] = (), remove: Sequence[str] = ()) -> MovePlan:
        """What would move if nodes came and left; nothing is changed.

        It is what is then done, as long as nothing else happens meanwhile; with neither, what is
        still to be done of what has happened.

        Args:
            add: Names of nodes that are not there; taken to be as large as those that are.
            remove: Names or ids of nodes, as if they were drained.

        Raises:
            InvalidInputError: A name is nobody's, or somebody's already, or nobody would be left.
        """
        return await operating.preview(self._connection, add, remove, self._timeout)

    async def drain(self, node: str, /) -> MovePlan:
        """Move everything off a node, so that it can be stopped for good; what has moved.

        Leaderships and replicas go to the other nodes, step by step; calls are served all along.
        It returns when no replica and no leadership is on the node and `nodes()` lists it no more.
        It waits for streams, and for runs that are tracked on the node. With fewer nodes left than
        `replicas`, shards have fewer replicas from then on: in the plan, moves to None.

        A drain cannot be taken back. It goes on when its caller is cancelled or gone: called again,
        this waits for the rest. The machine comes back as a new node, with an empty directory.

        Args:
            node: Name or id of the node.

        Raises:
            InvalidInputError: There is no such node.
            UnavailableError: It cannot go, and nothing was changed: it is the last one, or another
                replica of one of its shards is missing; the message says which.
            StillRunningError: It goes on, but nothing has moved for `call_timeout`, or it has taken
                the whole `options(timeout=)`; the message says what is left, and what that waits
                for (`details["left"]` groups, `details["why"]`).
        """
        return await operating.drain(self._connection, node, self._timeout)

    async def explain(self, agent_id: str, /) -> str:
        """Why an agent is where it is, and who serves it now; lines for people, not for programs.

        The agent need not exist: it says where it would be.

        Raises:
            InvalidInputError: The id is malformed.
        """
        return await operating.explain(self._connection, agent_id, self._timeout)

    async def actions(self, *, name: str | None = None, tag: str | None = None) -> list[ActionInfo]:
        """The actions that can run, sorted by name; with `name` or `tag`, only those."""
        connection = self._connection
        connection.check_usable()
        nodes: dict[str, set[str]] = {}
        rows: dict[str, list[Any]] = {}
        for member in connection.client.view.members:
            for host in member.hosts[:1]:  # those of one node all know the same
                try:
                    found = from_json(await self._ask_host(host, ACTIONS))
                except (JidoError, ConnectionError):
                    continue  # a node that does not answer can run nothing now
                for row in found:
                    rows.setdefault(row[0], row)
                    nodes.setdefault(row[0], set()).add(member.name)
        return [
            ActionInfo(
                name=key,
                version=version,
                description=description,
                tags=tuple(tags),
                nodes=tuple(sorted(nodes[key])),
                input_schema=input_schema,
                output_schema=output_schema,
            )
            for key, (_, version, description, tags, input_schema, output_schema) in sorted(
                rows.items()
            )
            if (name is None or key == name) and (tag is None or tag in tags)
        ]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._connection.name!r} at {self._connection.address!r})"
