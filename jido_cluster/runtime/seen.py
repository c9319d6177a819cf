"""What a session has seen, on its way between clients and hosts.

Theory. A call in a session carries the session's token; its answer brings the token back with the
answer in it, and the session takes it. A turn that was called in a session goes on in it: what its
own calls see is in its answer too, and its signals carry it to whoever gets them. So nobody who
follows the session is shown less than what led to what it has seen.

Tokens are text, signed with a key that all processes of a cluster share: what comes out of a cookie
is believed only if one of them made it.
"""

from hashlib import blake2b
from typing import Any

from jido_cluster.errors import InvalidInputError, SessionUnavailableError
from jido_state.session import Token, TokenError, TokenFullError

__all__ = ["Seen", "session_key"]


def session_key(secret: str) -> bytes:
    """The key that signs session tokens, made of a secret of the cluster's processes."""
    return blake2b(secret.encode(), digest_size=32, person=b"jido session").digest()


class Seen:
    """What one session has seen; grows with its answers. For one event loop.

    Attributes:
        token: All of it, unless it became too much for one.
    """

    __slots__ = ("_is_full", "_key", "token")

    def __init__(self, token: Token, key: bytes) -> None:
        self.token = token
        self._key = key
        self._is_full = False

    @classmethod
    def read(cls, text: str, key: bytes, cluster: str, recovery: int) -> "Seen":
        """What is in a token.

        Args:
            text: The token.
            key: That all processes of the cluster share.
            cluster: Its id.
            recovery: How often it was recovered by force.

        Raises:
            InvalidInputError: It is no token of this cluster, or older than a recovery by force.
        """
        try:
            token = Token.read(text, key)
            token.check(cluster, recovery)
        except TokenError as error:
            message = f"session token refused: {error}; start a session without a token"
            raise InvalidInputError(message) from error
        return cls(token, key)

    def add(self, token: Token) -> None:
        """The session has seen this as well."""
        try:
            self.token = self.token.join(token)
        except TokenFullError:
            self._is_full = True
        except TokenError:
            # The cluster was recovered by force meanwhile: the next call is refused, and says so.
            return

    def heard(self, meta: Any) -> Any:
        """The rest of an answer's meta, without the token in it, which the session has now seen."""
        rest, text = meta
        if not text:
            self._is_full = True
        else:
            self.add(Token.read(text, self._key))
        return rest

    @property
    def text(self) -> str:
        """The token; "" when the session has seen too much for one."""
        return "" if self._is_full else self.token.sign(self._key)

    def checked_text(self) -> str:
        """The token.

        Raises:
            SessionUnavailableError: The session has seen too much for one.
        """
        text = self.text
        if not text:
            message = (
                "the session has seen turns without a quorum of too many agents: wait until the "
                "network is whole again, and start a new session"
            )
            raise SessionUnavailableError(message, retry_after=1.0)
        return text
