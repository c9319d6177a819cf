"""What the detectors of two nodes say to each other, and what one asks of its driver.

Every message carries what its sender has to say of itself and of others, so that news travels with
the probes. All of them may be lost, repeated, late and out of order.
"""

from typing import NamedTuple

from jido_placement.membership import Opinion, Reachability

__all__ = [
    "Ack",
    "Advertised",
    "Advertisement",
    "Carried",
    "Effect",
    "Gossip",
    "Message",
    "Nack",
    "News",
    "Probe",
    "ProbeFor",
    "ReachabilityChanged",
    "Send",
    "Sync",
    "SyncEntry",
]


class News(NamedTuple):
    """What somebody believes of a node.

    Attributes:
        node: Whom it is about.
        opinion: What is believed.
        accuser: Who came to that belief; the node itself when it is reachable.
    """

    node: str
    opinion: Opinion
    accuser: str


class Advertisement(NamedTuple):
    """What a node says of itself: capabilities and load. The bytes are its users' business.

    Attributes:
        node: Who says it.
        version: Rises with each advertisement, over restarts too.
        payload: At most `Timings.max_payload_bytes`.
    """

    node: str
    version: int
    payload: bytes


class Carried(NamedTuple):
    """What travels with every message, bounded by `Timings.max_message_bytes`.

    Attributes:
        incarnation: The sender's own.
        news: Of any nodes, distinct.
        advertisements: Of any nodes, distinct.
    """

    incarnation: int
    news: tuple[News, ...] = ()
    advertisements: tuple[Advertisement, ...] = ()


class Probe(NamedTuple):
    """Asks for an `Ack` with the same number."""

    number: int
    carried: Carried


class ProbeFor(NamedTuple):
    """Asks another node to probe a third, and to pass its `Ack` on, or to say `Nack` in time."""

    number: int
    target: str
    carried: Carried


class Ack(NamedTuple):
    """A probe was answered.

    Attributes:
        number: That of the probe.
        node: Who answered; not the sender when it was probed through the sender.
        incarnation: Of the one who answered.
        carried: As in every message.
    """

    number: int
    node: str
    incarnation: int
    carried: Carried


class Nack(NamedTuple):
    """The sender is well, but the node it was to probe has not answered it so far."""

    number: int
    carried: Carried


class Gossip(NamedTuple):
    """Nothing but what it carries."""

    carried: Carried


class SyncEntry(NamedTuple):
    """What the sender knows of one node: its opinion, and which advertisement it has (0: none)."""

    node: str
    opinion: Opinion
    version: int


class Sync(NamedTuple):
    """A page of what the sender knows. The receiver answers with what is newer at its end.

    Attributes:
        entries: By node, distinct.
        is_answer: Whether it answers a `Sync`; then nothing but advertisements comes back.
        carried: As in every message.
    """

    entries: tuple[SyncEntry, ...]
    is_answer: bool
    carried: Carried


Message = Probe | ProbeFor | Ack | Nack | Gossip | Sync


class Send(NamedTuple):
    """Hand the message to this node's detector, once, without waiting."""

    to: str
    message: Message


class ReachabilityChanged(NamedTuple):
    """The own opinion of a node has changed.

    Attributes:
        node: Of whom.
        incarnation: Of which incarnation.
        before: What was believed.
        after: What is believed now.
        accuser: Who came to that belief first; the node itself when it is reachable.
    """

    node: str
    incarnation: int
    before: Reachability
    after: Reachability
    accuser: str


class Advertised(NamedTuple):
    """A node has advertised something newer than what was known of it."""

    advertisement: Advertisement


Effect = Send | ReachabilityChanged | Advertised
