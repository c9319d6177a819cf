"""Random values of the replication core, as Hypothesis strategies."""

from hypothesis import strategies as st

from jido_state.dedupe import NO_OPERATIONS, Operations, remember
from jido_state.dots import Acting, Actor, Dot, VersionVector
from jido_state.hlc import Stamp
from jido_state.operations import CallerFence, OpId
from jido_state.outbox import Outbox, Receipts
from jido_state.record import Record
from jido_state.timers import Timer, Timers
from jido_state.versions import Ballot, Version

U16 = st.integers(0, (1 << 16) - 1)
U32 = st.integers(0, (1 << 32) - 1)
U64 = st.integers(0, (1 << 64) - 1)
SMALL = st.integers(0, 3)
TEXTS = st.text(max_size=12)

BALLOTS = st.builds(Ballot, U16, U32, U32, U16)
VERSIONS = st.builds(Version, U16, U32, U32, U16, U64)

NEAR_BALLOTS = st.builds(Ballot, st.just(0), st.just(1), st.integers(1, 4), SMALL)
PERIODS = st.builds(Acting, SMALL, SMALL, SMALL)
ACTORS: st.SearchStrategy[Actor] = NEAR_BALLOTS | PERIODS
DOTS: st.SearchStrategy[Dot] = st.builds(lambda actor, n: (*actor, n), ACTORS, st.integers(1, 5))
STAMPS = st.builds(Stamp, st.integers(0, 1000), SMALL, DOTS)
OPS = st.builds(
    OpId, st.sampled_from(("c1", "c2")), st.integers(1, 6), st.sampled_from(("", "~" + "0" * 32))
) | st.builds(OpId.named, st.sampled_from(("pay-1", "pay-2")))


@st.composite
def vectors(draw: st.DrawFn) -> VersionVector:
    vector = VersionVector({}, {})
    for dot in draw(st.lists(DOTS, max_size=6)):
        vector = vector.add(dot)
    return vector.fold(draw(st.lists(ACTORS, max_size=2)))


@st.composite
def tables(draw: st.DrawFn) -> Operations:
    table = NO_OPERATIONS
    for op, result in draw(st.lists(st.tuples(OPS, st.binary(max_size=5000)), max_size=6)):
        fence = CallerFence("a", draw(VERSIONS)) if draw(st.booleans()) else None
        table = remember(table, op, result, now_ms=draw(st.integers(0, 99)), fence=fence)
    return table


@st.composite
def records(draw: st.DrawFn) -> Record:
    outbox, receipts, timers = Outbox(), Receipts(), Timers()
    for dot in draw(st.lists(DOTS, max_size=3, unique=True)):
        added = outbox.add(dot, [(draw(TEXTS), draw(st.binary(max_size=9)))], draw(U32))
        assert isinstance(added, Outbox)
        outbox = added
        received = receipts.add(draw(TEXTS), dot, draw(SMALL), now_ms=draw(U32))
        assert isinstance(received, Receipts)
        receipts = received
        timer = Timer(draw(TEXTS), dot, draw(U32), draw(st.integers(1, 9)), b"", b"x")
        changed = timers.set(timer)
        assert isinstance(changed, Timers)
        timers = changed
    return Record(
        draw(TEXTS),
        draw(st.sampled_from(("eventual", "session", "strong"))),
        draw(st.integers(1, 99)),
        draw(st.binary(max_size=64)),
        draw(VERSIONS),
        draw(DOTS),
        tuple(draw(st.lists(DOTS, max_size=2))),
        draw(st.none() | OPS),
        draw(st.none() | BALLOTS),
        draw(vectors()),
        draw(STAMPS),
        draw(tables()),
        outbox,
        receipts,
        timers,
    )
