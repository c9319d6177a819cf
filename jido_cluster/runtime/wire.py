"""What travels between a client and a host: msgpack frames of short tuples.

Theory. A frame carries many messages one way and, in its answer, finished replies the other way.
Tuples and small integers, because tens of thousands of messages a second are packed by one core.
Parameters, results and states inside are JSON bytes, opaque to this layer: pydantic writes and
reads them once, at the two ends.

    frame    (version, link, epoch, sequence, ack, [message, ...])
    message  (number, kind, key, name, body, milliseconds left, extra or None)
    answer   (version, frames still held, calls unanswered, [reply, ...])
    reply    (number, status, body, meta or None)

`link` names one client's connection to one host; `epoch` counts its resets and `sequence` its
frames, so that the host can restore the order that Ray does not keep. All operations of the client
below number `ack` are answered: their results need not be remembered. The meta of a reply to a
message with `SESSION` is a pair: the meta it would have without, and the token. Nothing here is
unpickled.
"""

from collections import OrderedDict
from typing import Any, Final

import ormsgpack
from pydantic_core import from_json, to_json

from jido_cluster.config import MAX_DATA
from jido_cluster.errors import InvalidInputError, JidoError, WireError
from jido_cluster.runtime.view import Lead, StandIn

VERSION: Final = 2
# The largest single message: a signal that is called carries its data as such and as parameters, a
# moved agent its state and the results remembered beside it. Frames of many stay below MAX_DATA.
MAX_FRAME: Final = 4 * MAX_DATA

# Kinds of message. CALL runs the one handler of a type, SIGNAL all that match, OPERATION is the
# runtime's own: its name says which. CAST is a CALL, and EVENT a SIGNAL, that nobody waits for.
# STREAM is a CALL that is answered by items before its reply.
CALL: Final = 0
CAST: Final = 1
SIGNAL: Final = 2
EVENT: Final = 3
OPERATION: Final = 4
STREAM: Final = 5

# Statuses of a reply. REDIRECT: not here, and nothing has run. DOUBT: not here any more, and it may
# take effect: the next leader knows it by its op id. Both say who leads as far as the host knows
# (`unpack_lead`). ITEM: one of a stream; LAST: there are no more, say when all are taken; the reply
# proper is still to come. CROWDED: nothing has run, because the agent remembers too many results
# that this client has not acknowledged; it is to be sent again, with `ACK`.
DONE: Final = 0
FAILED: Final = 1
REDIRECT: Final = 2
ITEM: Final = 3
LAST: Final = 4
DOUBT: Final = 5
CROWDED: Final = 6

# The operation by which a client asks a host who leads a shard; the body is the shard's number in
# msgpack, the result is of `pack_lead`, at once. A host names itself only while it leads, or stands
# in because nobody does.
LEADS: Final = "leads"

# Keys of `extra`, one letter each; absent ones are not sent.
OP_ID: Final = "o"
CALLER: Final = "c"
CHAIN: Final = "n"
AGE: Final = "a"
TRACE: Final = "t"
META: Final = "m"
VIRTUAL: Final = "v"
EVENT_BYTES: Final = "g"
FENCE: Final = "f"  # the calling turn's right to call
LEVEL: Final = "l"  # consistency of a read
SESSION: Final = "e"  # what the session has seen (`Token`); the answer's meta has it too
SENT: Final = "s"  # a signal from an outbox: its sender, dot, place, and when it was sent
RUN: Final = "r"  # the outcome of a run that stands in this agent's outbox; which
ACK: Final = "k"  # as a frame's ack, for operations on this key alone; holds where it is ahead

pack = ormsgpack.packb


def unpack(data: bytes) -> Any:
    """The value of msgpack bytes.

    Raises:
        WireError: The bytes are no msgpack, or too many.
    """
    if len(data) > MAX_FRAME:
        message = f"a frame of {len(data)} bytes arrived, the limit is {MAX_FRAME}; it was dropped"
        raise WireError(message)
    try:
        return ormsgpack.unpackb(data)
    except (ValueError, TypeError) as error:
        message = f"a frame of {len(data)} bytes is not msgpack: {error}"
        raise WireError(message) from error


def unpack_frame(data: bytes) -> tuple[str, int, int, int, list[list[Any]]]:
    """The parts of a frame: link, epoch, sequence, ack, messages.

    Raises:
        WireError: It is malformed, too large, or of another version.
    """
    frame = unpack(data)
    match frame:
        case [int(version), *_] if version != VERSION:
            message = (
                f"a frame of wire version {version} arrived, this node speaks {VERSION}; run the "
                "same jido-cluster release everywhere"
            )
            raise WireError(message)
        case [int(), str(link), int(epoch), int(sequence), int(ack), list(messages)]:
            for entry in messages:
                if type(entry) is not list or len(entry) != 7:
                    message = "a frame holds a malformed message; it was dropped whole"
                    raise WireError(message)
            return link, epoch, sequence, ack, messages
    message = "a frame does not have its six parts; it was dropped"
    raise WireError(message)


def unpack_answer(data: bytes) -> tuple[int, int, list[list[Any]]]:
    """The parts of an answer: held frames, unanswered calls, replies.

    Raises:
        WireError: It is malformed, too large, or of another version.
    """
    match unpack(data):
        case [int(version), int(held), int(unanswered), list(replies)] if version == VERSION:
            return held, unanswered, replies
    message = "an answer does not have its four parts; it was dropped"
    raise WireError(message)


def pack_lead(lead: Lead | StandIn | None) -> bytes:
    """The body of a REDIRECT or DOUBT."""
    if lead is None:
        return b""
    return pack((lead.node,) if type(lead) is StandIn else (*lead.ballot, lead.node))  # type: ignore[union-attr]


def unpack_lead(body: bytes) -> Lead | StandIn | None:
    """The lead of `pack_lead`.

    Raises:
        WireError: It is malformed.
    """
    if not body:
        return None
    match unpack(body):
        case [int(recovery), int(config), int(round_), int(node), int(leader)]:
            return Lead((recovery, config, round_, node), leader)
        case [int(node)]:
            return StandIn(node)
    message = "a reply says who leads, but not as a ballot and a node"
    raise WireError(message)


def encode_error(error: JidoError) -> bytes:
    """The error as JSON bytes; details that are not JSON-shaped become text."""
    return to_json(error.to_dict(), serialize_unknown=True, bytes_mode="base64")


def decode_error(data: bytes) -> JidoError:
    """The typed error of its JSON bytes; where it was made, with the original as its cause."""
    error = JidoError.from_dict(from_json(data))
    error.__cause__ = _originals.get(error.error_id) if error.error_id else None
    where = [f"{name} {error.details[name]}" for name in _WHERE if name in error.details]
    if error.error_id:
        where.append(f"error_id {error.error_id}")
    if where:
        error.add_note(", ".join(where))
    return error


_WHERE: Final = ("agent", "handler", "node")


# Originals of the latest errors made in this process, by error id: a local cluster's caller gets
# the traceback of the handler, a remote one the id under which it is in that node's log.
_originals: OrderedDict[str, BaseException] = OrderedDict()
_MAX_ORIGINALS: Final = 64


def remember_original(error: JidoError) -> None:
    """Keep what the error was made from, for a caller in this process."""
    if error.error_id is not None and error.__cause__ is not None:
        _originals[error.error_id] = error.__cause__
        if len(_originals) > _MAX_ORIGINALS:
            _originals.popitem(last=False)


def encode_value(value: Any) -> bytes:
    """Plain data as JSON bytes.

    Raises:
        InvalidInputError: It is not JSON-shaped, or larger than 1 MiB.
    """
    try:
        data = to_json(value, bytes_mode="base64", inf_nan_mode="constants")
    except (ValueError, TypeError) as error:
        message = f"a value of type {type(value).__name__} does not travel: {error}"
        raise InvalidInputError(message) from error
    check_size(data)
    return data


def check_size(data: bytes) -> None:
    """Do nothing if the data may travel.

    Raises:
        InvalidInputError: It is larger than 1 MiB.
    """
    if len(data) > MAX_DATA:
        message = (
            f"{len(data)} bytes of data, the limit is {MAX_DATA}; put large data in a file or a "
            "store and send its path, URL or key"
        )
        raise InvalidInputError(message, size=len(data), limit=MAX_DATA)


decode_value = from_json
