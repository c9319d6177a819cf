"""How a node asks to be let in, and what it is told: the bytes of the control request `join`.

Any supervisor of the cluster takes the request, puts the command to the root group, and answers
when its own record shows what became of it. So the one who asks starts with that record, and with
the addresses of everybody.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from jido_cluster.errors import ConfigError, WireError
from jido_cluster.runtime.formation import Seen
from jido_cluster.runtime.identity import Boot
from jido_cluster.runtime.view import View
from jido_cluster.runtime.wire import pack, unpack
from jido_placement.commands import Join, RegisterBoot
from jido_placement.packing import DamagedRecordError, record_from_bytes, record_to_bytes
from jido_placement.record import Record

__all__ = [
    "REMOVED",
    "About",
    "Entered",
    "Entry",
    "Later",
    "Refusal",
    "answer_of",
    "removed_error",
    "seen_of",
    "to_bytes",
]

REMOVED: Final = "was removed from the cluster"  # the refusal of a node that has left for good


class About(NamedTuple):
    """What a node says of itself when it joins.

    Attributes:
        name: For people.
        labels: Of the machine.
        weight: Capacity relative to the others, >= 0.
        zone: What it fails together with; None makes it a zone of its own.
        resources: What it has in all, by name.
    """

    name: str
    labels: Mapping[str, str] = {}
    weight: float = 1.0
    zone: str | None = None
    resources: Mapping[str, float] = {}


class Entry(NamedTuple):
    """The request.

    Attributes:
        seen: Who asks, with its boot number.
        boot: The start that is to be registered.
        about: What the node says of itself; of a member, the record knows better.
        agreed: Its agreed configuration, in full, so that a refusal can name the field.
        is_fresh: Whether it has never been a member: it joins, instead of registering a start.
    """

    seen: Seen
    boot: Boot
    about: About
    agreed: Mapping[str, Any]
    is_fresh: bool

    def command(self, agreed: str) -> Join | RegisterBoot:
        """What the root group is asked."""
        boot, about, id_ = self.boot, self.about, self.seen.id
        if not self.is_fresh:
            return RegisterBoot(id_, boot.number, boot.nonce, boot.old_nonce, agreed)
        labels = tuple(sorted(about.labels.items()))
        return Join(id_, boot.nonce, about.name, labels, about.weight, about.zone, agreed)

    def to_bytes(self) -> bytes:
        """For the wire."""
        about = [self.about.name, dict(self.about.labels), self.about.weight, self.about.zone]
        return pack([list(self.seen), list(self.boot), about, dict(self.agreed), self.is_fresh])

    @classmethod
    def from_bytes(cls, data: bytes) -> "Entry":
        """The request of `to_bytes`.

        Raises:
            WireError: It is none.
        """
        try:
            seen_data, boot_data, (name, labels, weight, zone), agreed, is_fresh = unpack(data)
            seen, boot = Seen(*seen_data), Boot(*boot_data)
            about = About(
                _text(name),
                {_text(key): _text(value) for key, value in labels.items()},
                float(weight),
                None if zone is None else _text(zone),
            )
            _text(seen.id), _text(seen.supervisor)
            if not (isinstance(agreed, dict) and all(type(one) is int for one in boot[:3])):
                raise TypeError("its configuration or its boot")  # noqa: TRY301 - told as the others
        except (TypeError, ValueError, AttributeError) as error:
            raise WireError(f"a request to join: {error}") from error
        return cls(seen, boot, about, agreed, bool(is_fresh))


class Entered(NamedTuple):
    """The node is in: its index, the record that shows it, and where everybody is."""

    node: int
    record: Record
    view: View


class Refusal(NamedTuple):
    """The node is not let in, whoever it asks."""

    text: str


class Later(NamedTuple):
    """Nobody can say now; ask again, or somebody else."""

    text: str


def to_bytes(answer: Entered | Refusal | Later) -> bytes:
    """An answer for the wire."""
    match answer:
        case Entered(node, record, view):
            return pack(["in", node, record_to_bytes(record), view.to_data()])
        case Refusal(text):
            return pack(["no", text])
        case Later(text):
            return pack(["later", text])


def answer_of(data: bytes) -> Entered | Refusal | Later:
    """The answer of `to_bytes`.

    Raises:
        WireError: It is none.
    """
    try:
        match unpack(data):
            case ["in", int(node), bytes(record), view]:
                return Entered(node, record_from_bytes(record), View.from_data(view))
            case ["no", str(text)]:
                return Refusal(text)
            case ["later", str(text)]:
                return Later(text)
    except (DamagedRecordError, TypeError, ValueError) as error:
        raise WireError(f"an answer to join: {error}") from error
    raise WireError("an answer to join is none of the three")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where a text belongs")
    return value


def seen_of(data: bytes) -> Seen:
    """What a process says of itself, from the answer to the control request `who`.

    Raises:
        WireError: It is no such answer.
    """
    try:
        return Seen(*unpack(data))
    except TypeError as error:
        raise WireError(f"an answer to who: {error}") from error


def removed_error(id_: str) -> ConfigError:
    """What a node is told that is a member no more; `details["has_left"]` tells it from others."""
    return ConfigError(
        f"node {id_} {REMOVED}; to bring the machine back, start it with an empty data directory",
        node=id_,
        has_left=True,
    )
