"""`Cluster`: the cluster for synchronous code.

It runs an `AsyncCluster` on a portal thread and waits for it, so that scripts, threads and
notebooks need no event loop.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Self, TypeVar, Unpack, overload

from jido_cluster.agent import Agent
from jido_cluster.cluster import AsyncCluster
from jido_cluster.config import ClusterConfig
from jido_cluster.exec.needs import Needs
from jido_cluster.exec.options import RunOptions
from jido_cluster.exec.outcome import Outcome
from jido_cluster.exec.resource import Resource
from jido_cluster.exec.run import AsyncRun, SyncRun
from jido_cluster.portal import Portal
from jido_cluster.refs import AgentRef, AsyncAgentRef
from jido_cluster.runrefs import RunRef
from jido_cluster.session import Session
from jido_cluster.types import ActionInfo, AgentInfo, MovePlan, NodeInfo

if TYPE_CHECKING:
    from jido_cluster.testing import LocalCluster

P = ParamSpec("P")
R = TypeVar("R")
Pm = TypeVar("Pm")
A = TypeVar("A", bound=Agent)
_Ctx = Mapping[str, Any] | None


class Cluster:
    """A cluster, for synchronous code; safe to use from many threads."""

    def __init__(self, inner: AsyncCluster, portal: Portal) -> None:
        self._inner = inner
        self._portal = portal

    @classmethod
    def connect(
        cls,
        address: str | None = None,
        *,
        name: str = "default",
        config: ClusterConfig | None = None,
        start: bool = True,
    ) -> "Cluster":
        """As `AsyncCluster.connect`."""
        from jido_cluster.connections import connect_sync

        return connect_sync(address, name=name, config=config, start=start)

    @classmethod
    def local(
        cls,
        nodes: int = 1,
        *,
        config: ClusterConfig | None = None,
        data_dir: Path | str | None = None,
        resources: Mapping[Resource[Any], Any] | None = None,
        virtual_time: bool = False,
    ) -> "LocalCluster":
        """As `AsyncCluster.local`."""
        from jido_cluster.testing import start_local_sync

        return start_local_sync(nodes, config, data_dir, resources, virtual_time=virtual_time)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """As `AsyncCluster.close`."""
        if not self._inner._connection.is_closed:
            self._portal.call(self._inner.close())

    def shutdown(self) -> None:
        """As `AsyncCluster.shutdown`."""
        self._portal.call(self._inner.shutdown())

    def options(self, *, timeout: float | None = None, op_id: str | None = None) -> Self:
        """As `AsyncCluster.options`."""
        return type(self)(self._inner.options(timeout=timeout, op_id=op_id), self._portal)

    def session(self, token: str | None = None) -> Session:
        """As `AsyncCluster.session`."""
        return self._inner.session(token)

    def spawn(
        self, agent_type: Callable[P, A], agent_id: str, /, *args: P.args, **state: P.kwargs
    ) -> AgentRef[A]:
        """As `AsyncCluster.spawn`."""
        ref = self._portal.call(self._inner.spawn(agent_type, agent_id, *args, **state))
        return AgentRef(ref, self._portal)

    def get_or_spawn(
        self, agent_type: Callable[P, A], agent_id: str, /, *args: P.args, **state: P.kwargs
    ) -> AgentRef[A]:
        """As `AsyncCluster.get_or_spawn`."""
        ref = self._portal.call(self._inner.get_or_spawn(agent_type, agent_id, *args, **state))
        return AgentRef(ref, self._portal)

    @overload
    def ref(self, agent_type: type[A], agent_id: str, /) -> AgentRef[A]: ...
    @overload
    def ref(self, agent_id: str, /) -> AgentRef[Any]: ...
    def ref(self, agent_type: Any, agent_id: Any = None, /) -> AgentRef[Any]:
        """As `AsyncCluster.ref`."""
        inner = self._inner
        ref: AsyncAgentRef[Any] = (
            inner.ref(agent_type, agent_id) if agent_id is not None else inner.ref(agent_type)
        )
        return AgentRef(ref, self._portal)

    @overload
    def get(self, agent_type: type[A], agent_id: str, /) -> AgentRef[A]: ...
    @overload
    def get(self, agent_id: str, /) -> AgentRef[Any]: ...
    def get(self, agent_type: Any, agent_id: Any = None, /) -> AgentRef[Any]:
        """As `AsyncCluster.get`."""
        work = (
            self._inner.get(agent_type, agent_id)
            if agent_id is not None
            else self._inner.get(agent_type)
        )
        return AgentRef(self._portal.call(work), self._portal)

    def agents(
        self, *, prefix: str = "", type: type[Agent] | str | None = None
    ) -> Iterator[AgentInfo]:
        """As `AsyncCluster.agents`."""
        found = self._inner.agents(prefix=prefix, type=type)
        end = object()
        while (info := self._portal.call(_next(found, end))) is not end:
            yield info

    @overload
    def run(
        self,
        action: type[AsyncRun[Pm, R]],
        params: Pm | Mapping[str, Any] | None = None,
        context: _Ctx = None,
        *,
        needs: Needs | None = None,
        **options: Unpack[RunOptions],
    ) -> R: ...
    @overload
    def run(
        self,
        action: type[SyncRun[Pm, R]],
        params: Pm | Mapping[str, Any] | None = None,
        context: _Ctx = None,
        *,
        needs: Needs | None = None,
        **options: Unpack[RunOptions],
    ) -> R: ...
    def run(
        self,
        action: Any,
        params: Any = None,
        context: _Ctx = None,
        *,
        needs: Needs | None = None,
        **options: Any,
    ) -> Any:
        """As `AsyncCluster.run`."""
        return self._portal.call(self._inner.run(action, params, context, needs=needs, **options))

    @overload
    def start(
        self,
        action: type[AsyncRun[Pm, R]],
        params: Pm | Mapping[str, Any] | None = None,
        context: _Ctx = None,
        *,
        needs: Needs | None = None,
        **options: Unpack[RunOptions],
    ) -> RunRef[R]: ...
    @overload
    def start(
        self,
        action: type[SyncRun[Pm, R]],
        params: Pm | Mapping[str, Any] | None = None,
        context: _Ctx = None,
        *,
        needs: Needs | None = None,
        **options: Unpack[RunOptions],
    ) -> RunRef[R]: ...
    def start(
        self,
        action: Any,
        params: Any = None,
        context: _Ctx = None,
        *,
        needs: Needs | None = None,
        **options: Any,
    ) -> RunRef[Any]:
        """As `AsyncCluster.start`."""
        ref = self._portal.call(self._inner.start(action, params, context, needs=needs, **options))
        return RunRef(ref, self._portal)

    @overload
    def run_many(
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
    def run_many(
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
    def run_many(
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
        """As `AsyncCluster.run_many`."""
        work = self._inner.run_many(
            action,
            items,
            context,
            needs=needs,
            max_concurrency=max_concurrency,
            on_failure=on_failure,
            progress=progress,
            **options,
        )
        return self._portal.call(work)

    def nodes(self) -> list[NodeInfo]:
        """As `AsyncCluster.nodes`."""
        return self._portal.call(self._inner.nodes())

    def preview(self, *, add: Sequence[str] = (), remove: Sequence[str] = ()) -> MovePlan:
        """As `AsyncCluster.preview`."""
        return self._portal.call(self._inner.preview(add=add, remove=remove))

    def drain(self, node: str, /) -> MovePlan:
        """As `AsyncCluster.drain`."""
        return self._portal.call(self._inner.drain(node))

    def explain(self, agent_id: str, /) -> str:
        """As `AsyncCluster.explain`."""
        return self._portal.call(self._inner.explain(agent_id))

    def actions(self, *, name: str | None = None, tag: str | None = None) -> list[ActionInfo]:
        """As `AsyncCluster.actions`."""
        return self._portal.call(self._inner.actions(name=name, tag=tag))

    def __repr__(self) -> str:
        return repr(self._inner).removeprefix("Async")


async def _next(found: AsyncIterator[Any], end: object) -> Any:
    return await anext(found, end)
