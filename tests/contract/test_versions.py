"""Stored states and the class's version: records outlive the code that wrote them."""

from typing import Any

import pytest

from jido_cluster import Agent, Cluster, NotRegisteredError, on
from tests.contract.support import CONFIG


def account(version: int) -> Any:
    """The class of an account, as of this version of the code; the latest made is in use."""

    class Account(Agent, name="contract.account", version=version):
        cents: int = 0

        @on("account.pay")
        async def pay(self, cents: int) -> int:
            self.cents += cents
            return self.cents

        @on("account.read", read_only=True)
        async def read(self) -> int:
            return self.cents

        @classmethod
        def on_upgrade(cls, data: dict[str, Any], version: int, /) -> dict[str, Any]:
            return {"cents": data["cents"] * 100} if version == 1 else data

    return Account


def test_records_meet_newer_and_older_code(name: str) -> None:
    """Newer code brings them forward, for readers at once and for good with the next turn.

    Code that is older than a record leaves it alone and says so.
    """
    old = account(1)
    with Cluster.local(nodes=1, config=CONFIG) as cluster:
        cluster.spawn(old, name).call(old.pay, 3)

        new = account(2)
        cluster.kill("node-1")
        cluster.restart("node-1")
        ref = cluster.ref(new, name)
        assert ref.call(new.read) == 300
        assert ref.state().cents == 300
        assert ref.call(new.pay, 1) == 301

        cluster.kill("node-1")
        cluster.restart("node-1")
        assert ref.call(new.read) == 301

        old = account(1)
        cluster.kill("node-1")
        cluster.restart("node-1")
        behind = cluster.ref(old, name)
        for attempt in (
            lambda: behind.call(old.read),
            lambda: behind.call(old.pay, 1),
            behind.state,
        ):
            with pytest.raises(NotRegisteredError, match="version 2") as raised:
                attempt()
            assert raised.value.retryable

        new = account(2)
        cluster.kill("node-1")
        cluster.restart("node-1")
        assert cluster.ref(new, name).call(new.pay, 1) == 302
