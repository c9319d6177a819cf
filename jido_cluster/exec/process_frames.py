"""What travels between a process and its workers: a header and two bodies, all JSON."""

from collections.abc import Mapping
from struct import Struct
from typing import Any, Final

from pydantic_core import from_json, to_json

__all__ = ["SIZES", "Frame", "join", "split"]

SIZES: Final = Struct(">III")  # bytes of the header and of the two bodies

Frame = tuple[Mapping[str, Any], bytes, bytes]


def join(header: Mapping[str, Any], first: bytes = b"", second: bytes = b"") -> bytes:
    """A frame as bytes: the sizes, then the parts."""
    head = to_json(header)
    return SIZES.pack(len(head), len(first), len(second)) + head + first + second


def split(sizes: bytes, content: bytes) -> Frame:
    """The frame of its sizes and of the bytes after them."""
    head, first, _ = SIZES.unpack(sizes)
    return from_json(content[:head]), content[head : head + first], content[head + first :]
