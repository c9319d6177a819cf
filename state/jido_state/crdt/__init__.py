"""Replicated data types: values that merge, whoever changed them and in whatever order.

Layout: `values` holds what items may be and how damage is reported; `counters` has `GCounter` and
`PNCounter`; `dotmap` is what `containers` builds `ORSet`, `LWWMap` and `MVRegister` on; `register`
has `LWWRegister`.

Each is an immutable value. A change names its *actor* (see `jido_state.dots`) or, where the later
one wins, its *stamp* (`jido_state.hlc`), and gives a new value. All have `merge`, which commutes,
associates and is idempotent; `context`, `delta_since(context)` and `merge_delta`, to send only what
is missing; `fold(actors)`, which forgets actors that are over without changing the value; and
`to_bytes` and `from_bytes`.
*Source*: Shapiro et al., A comprehensive study of convergent and commutative replicated data types
(2011); Almeida, Shoker, Baquero, Delta state replicated data types (2018).
"""

from jido_state.crdt.containers import LWWMap, MVRegister, ORSet
from jido_state.crdt.counters import GCounter, PNCounter
from jido_state.crdt.dotmap import Delta
from jido_state.crdt.register import LWWRegister
from jido_state.crdt.values import CrdtFormatError, CrdtValueError, RetiredActorError

__all__ = [
    "CrdtFormatError",
    "CrdtValueError",
    "Delta",
    "GCounter",
    "LWWMap",
    "LWWRegister",
    "MVRegister",
    "ORSet",
    "PNCounter",
    "RetiredActorError",
]
