"""Session tokens: what a session has seen, so that no answer is older.

Theory. A token has, by shard, the newest version the session has read or written, and by agent the
turns without a quorum that it has seen. A leader has recovered everything below its own ballot, so
it need only compare ballots; a replica that acts has to hold the version itself. Whoever has seen
too much for one token sees it replaced by one bit: from then on, shards it does not list are read
with a round of confirmations. This gives read-your-writes, monotonic reads and writes, and
writes-follow-reads within one session.
*Source*: Terry et al., Session guarantees for weakly consistent replicated data (1994).
*Departure*: tokens are signed, since servers believe them; a token forgets only towards caution.
"""

from __future__ import annotations

import hmac
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final

import ormsgpack

from jido_state.dots import Dot, VersionVector
from jido_state.versions import NO_VERSION, Ballot, Version

__all__ = ["MAX_TOKEN_BYTES", "OldTokenError", "Token", "TokenError", "TokenFullError", "Trust"]

MAX_TOKEN_BYTES: Final = 4096  # what browsers and proxies let pass as one cookie
MAX_SHARDS: Final = 32
MAX_ACTED_BYTES: Final = 2048  # never forgotten: no round of confirmations stands for them
_DOT_BYTES: Final = 24  # numbers of 16, 32, 32 and 64 bits in msgpack
FORMAT: Final = 1
_SIGNATURE_BYTES: Final = 32
_MAX_CONTENT: Final = MAX_TOKEN_BYTES * 3 // 4 - _SIGNATURE_BYTES - 2
MIN_KEY_BYTES: Final = 16
_SOME_DOT: Final[Dot] = (0, 0, 0, 0)


class TokenError(ValueError):
    """The token is not one that this cluster gave out: start a session without one."""


class OldTokenError(TokenError):
    """The cluster was recovered by force since: what the session has seen may be gone."""


class TokenFullError(TokenError):
    """The token cannot hold more turns without a quorum. Nothing was changed."""


class Trust(Enum):
    """What has to be done before a session is answered."""

    SERVE = "serve"
    """Nothing: the answer cannot be older than what the session has seen."""
    CONFIRM = "confirm"
    """A round of confirmations: the session has forgotten what it has seen of this shard."""
    NOT_HERE = "not here"
    """It has seen more than is known here: another replica leads, or holds it."""
    WAIT = "wait"
    """It has seen turns without a quorum that are not merged yet."""


@dataclass(frozen=True, slots=True)
class Token:
    """What a session has seen. A value.

    Attributes:
        cluster: Id of the cluster it belongs to.
        recovery: How often that was recovered by force.
        versions: By shard the newest version seen, the most recently seen last; at most
            `MAX_SHARDS`.
        acted: By agent the turns without a quorum seen, sorted, one of each actor.
        is_strict: Whether anything was forgotten.
    """

    cluster: str
    recovery: int
    versions: Mapping[int, Version] = field(default_factory=dict)
    acted: Mapping[str, tuple[Dot, ...]] = field(default_factory=dict)
    is_strict: bool = False

    # What has been seen

    def saw(self, shard: int, version: Version) -> Token:
        """With an answer that rests on this version of a shard."""
        known = self.versions.get(shard, version)
        versions = {number: each for number, each in self.versions.items() if number != shard}
        versions[shard] = max(known, version)
        return _bounded(replace(self, versions=versions))

    def saw_acting(self, agent: str, dot: Dot) -> Token:
        """With an answer that rests on a turn without a quorum.

        Raises:
            TokenFullError: There is no room; `at_acting` tells so before.
        """
        dots = [each for each in self.acted.get(agent, ()) if each[:-1] != dot[:-1]]
        known = [each for each in self.acted.get(agent, ()) if each[:-1] == dot[:-1]]
        acted = {**self.acted, agent: tuple(sorted((*dots, max((dot, *known)))))}
        if _acted_bytes(acted) > MAX_ACTED_BYTES:
            raise TokenFullError(
                f"the session has seen turns without a quorum of {len(self.acted)} agents: "
                "wait until these are merged, or start a new session"
            )
        return _bounded(replace(self, acted=acted))

    def merged(self, agent: str, seen: VersionVector) -> Token:
        """Without the agent's turns that a committed record contains; its version now counts."""
        dots = tuple(dot for dot in self.acted.get(agent, ()) if not seen.covers(dot))
        acted = {name: each for name, each in self.acted.items() if name != agent}
        return replace(self, acted={**acted, agent: dots} if dots else acted)

    def join(self, other: Token) -> Token:
        """What either session has seen, the other's as the more recent.

        Raises:
            TokenError: They belong to different clusters.
            OldTokenError: One of them is of before a forced recovery.
        """
        other.check(self.cluster, self.recovery)
        self.check(other.cluster, other.recovery)
        joined = replace(self, is_strict=self.is_strict or other.is_strict)
        for shard, version in other.versions.items():
            joined = joined.saw(shard, version)
        for agent, dots in other.acted.items():
            for dot in dots:
                joined = joined.saw_acting(agent, dot)
        return joined

    # What may be answered

    def check(self, cluster: str, recovery: int) -> None:
        """Refuses a token of another cluster, or of before a forced recovery.

        Raises:
            TokenError: It is of another cluster.
            OldTokenError: The cluster was recovered since.
        """
        if self.cluster != cluster:
            raise TokenError(f"the session is of cluster {self.cluster!r}, this is {cluster!r}")
        if self.recovery < recovery:
            raise OldTokenError(
                f"the session is of recovery {self.recovery}, the cluster at {recovery}: what it "
                "has seen may be gone; start a new session"
            )

    def at_leader(self, shard: int, ballot: Ballot, agent: str, seen: VersionVector) -> Trust:
        """What the leader of a shard owes the session.

        Args:
            shard: The agent's.
            ballot: What the leader leads under.
            agent: The agent's id.
            seen: The `merged` of its committed record.
        """
        version = self.versions.get(shard)
        if max(version or NO_VERSION, (self.recovery,))[:4] > ballot:
            return Trust.NOT_HERE
        if not self._has_seen(agent, seen):
            return Trust.WAIT
        return Trust.CONFIRM if version is None and self.is_strict else Trust.SERVE

    def at_acting(self, shard: int, version: Version, agent: str, seen: VersionVector) -> Trust:
        """What a replica that acts without a quorum owes the session: `SERVE` or `NOT_HERE`.

        Args:
            shard: The agent's.
            version: Of the register that this replica holds; `NO_VERSION` for none.
            agent: The agent's id.
            seen: Everything its register and entries here have seen.
        """
        known = self.versions.get(shard)
        if known is None and self.is_strict:
            return Trust.NOT_HERE  # nobody here can confirm
        is_known = version >= (known or NO_VERSION) and version.recovery >= self.recovery
        more = _acted_bytes({agent: (_SOME_DOT,)})
        has_room = _acted_bytes(self.acted) + more <= MAX_ACTED_BYTES
        is_served = is_known and has_room and self._has_seen(agent, seen)
        return Trust.SERVE if is_served else Trust.NOT_HERE

    def _has_seen(self, agent: str, seen: VersionVector) -> bool:
        return all(seen.covers(dot) for dot in self.acted.get(agent, ()))

    # Text

    def sign(self, key: bytes) -> str:
        """The token as text that can be a cookie: at most `MAX_TOKEN_BYTES` characters.

        Args:
            key: The cluster's secret, at least `MIN_KEY_BYTES` long.
        """
        content = _content(self)
        return urlsafe_b64encode(content + _signature(key, content)).rstrip(b"=").decode()

    @classmethod
    def read(cls, text: str, key: bytes) -> Token:
        """The token in this text.

        Raises:
            TokenError: It was not signed with this key, or is damaged.
        """
        if len(text) > MAX_TOKEN_BYTES:
            raise TokenError(f"a token of {len(text)} characters: it has at most {MAX_TOKEN_BYTES}")
        try:
            padded = text.encode("ascii") + b"=" * (-len(text) % 4)
            data = b64decode(padded, altchars=b"-_", validate=True)
        except ValueError as error:
            raise TokenError(f"{text[:40]!r} is no session token") from error
        content, signature = data[:-_SIGNATURE_BYTES], data[-_SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, _signature(key, content)):
            raise TokenError("the session token was not signed by this cluster")
        if content[0] != FORMAT:
            raise TokenError(f"the session token has format {content[0]}, known is {FORMAT}")
        return cls._from_data(ormsgpack.unpackb(content[1:]))

    @classmethod
    def _from_data(cls, data: Any) -> Token:
        cluster, recovery, versions, acted, is_strict = data
        return cls(
            cluster,
            recovery,
            {shard: Version(*version) for shard, version in versions},
            {agent: tuple(tuple(dot) for dot in dots) for agent, dots in acted},
            is_strict,
        )


def _bounded(token: Token) -> Token:
    """Without the oldest versions that there is no room for: their shards are confirmed."""
    while token.versions and (
        len(token.versions) > MAX_SHARDS or len(_content(token)) > _MAX_CONTENT
    ):
        oldest = next(iter(token.versions))
        kept = {shard: each for shard, each in token.versions.items() if shard != oldest}
        token = replace(token, versions=kept, is_strict=True)
    return token


def _content(token: Token) -> bytes:
    data = (
        token.cluster,
        token.recovery,
        [(shard, tuple(version)) for shard, version in token.versions.items()],
        [(agent, [tuple(dot) for dot in dots]) for agent, dots in sorted(token.acted.items())],
        token.is_strict,
    )
    return bytes((FORMAT,)) + ormsgpack.packb(data)


def _acted_bytes(acted: Mapping[str, Sequence[Dot]]) -> int:
    """At least as much as these take in a token."""
    return sum(len(agent.encode()) + 4 + _DOT_BYTES * len(dots) for agent, dots in acted.items())


def _signature(key: bytes, content: bytes) -> bytes:
    if len(key) < MIN_KEY_BYTES:
        raise ValueError(f"a key of {len(key)} bytes: at least {MIN_KEY_BYTES} are needed")
    return hmac.digest(key, content, "sha256")
