"""Stores, in memory and on simulated disks: what is durable, what a crash leaves, what rots."""

from random import Random

import pytest

from jido_state.simulation import DiskFaults, Scheduler, SimDisk, SimStore, flip_bit
from jido_state.store import (
    HEADER_KEY,
    Change,
    Commit,
    MemoryStore,
    Rows,
    Store,
    StoreError,
    StoreLockedError,
    StoreLostError,
    Table,
)

RECORD = Table.RECORD


def put(key: str, data: bytes = b"x", shard: int = 1) -> Change[bytes]:
    return Change(RECORD, shard, key, data)


class Machine:
    """One node with one disk; its process counts what it hears and dies of I/O errors."""

    def __init__(self, seed: int = 1, faults: DiskFaults | None = None) -> None:
        self.scheduler = Scheduler()
        self.disk: SimDisk[bytes] = SimDisk(self.scheduler, Random(seed), 0, faults)
        self.told: list[tuple[int, Commit]] = []
        self.errors = 0
        self.store = self.start()

    def start(self, *, checkpoint: bool = True) -> SimStore[bytes]:
        self.scheduler.start(0)
        self.told.clear()
        self.store = self.disk.open(
            lambda ticket, commit: self.told.append((ticket, commit)),
            self.fail,
            checkpoint=checkpoint,
        )
        return self.store

    def fail(self) -> None:
        self.errors += 1
        self.crash()

    def crash(self, *, power: bool = False) -> None:
        self.scheduler.end(0)
        self.disk.crash(power=power)

    def settle(self) -> None:
        self.scheduler.run(self.scheduler.now_us + 60_000_000)

    def write(self, key: str, data: bytes = b"x") -> None:
        self.store.append([put(key, data)])
        self.settle()

    def keys(self) -> list[str]:
        return [key for key, _ in self.store.scan(RECORD, 1)]


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest) -> Store[bytes]:
    return MemoryStore() if request.param == "memory" else Machine().store


# What every store does


def test_a_batch_can_be_read_at_once(store: Store[bytes]) -> None:
    """In order, later changes over earlier ones; tickets rise; nothing is durable yet."""
    first = store.append([put("a", b"1"), put("b", b"2"), put("a", b"3")])
    second = store.append([Change(RECORD, 1, "b"), Change(RECORD, 1, "nobody")])
    assert second > first > 0
    assert store.get(RECORD, 1, "a") == b"3"
    assert store.get(RECORD, 1, "b") is None
    assert store.get(RECORD, 2, "a") is None
    assert store.get(Table.STAGED, 1, "a") is None
    assert store.durable == 0


def test_a_scan_goes_in_pages_by_key(store: Store[bytes]) -> None:
    """Every row once, in order of keys, though rows come and go between the pages."""
    keys = sorted(f"k{number}" for number in range(25))
    store.append([put(key, key.encode()) for key in reversed(keys)])
    pages = []
    page = store.scan(RECORD, 1, limit=10)
    while page:
        pages.append([key for key, _ in page])
        store.append([Change(RECORD, 1, page[-1][0]), put("a-late")])
        page = store.scan(RECORD, 1, after=page[-1][0], limit=10)
    assert [len(page) for page in pages] == [10, 10, 5]
    assert [key for page in pages for key in page] == keys
    assert store.scan(RECORD, 9) == []


def test_all_rows_of_a_table_go_at_once(store: Store[bytes]) -> None:
    """A removed replica forgets its records and keeps its header."""
    header = Change(Table.HEADER, 1, HEADER_KEY, b"h")
    store.append([header, put("a"), put("b"), put("c", shard=2)])
    store.append([Change(RECORD, 1, None)])
    store.append([Change(RECORD, 7, None)])
    assert store.scan(RECORD, 1) == []
    assert len(store.scan(RECORD, 2)) == 1
    assert store.get(Table.HEADER, 1, HEADER_KEY) == b"h"


def test_shards_are_those_with_a_header(store: Store[bytes]) -> None:
    """Sorted; rows without a header make no replica."""
    for shard in (9, 3):
        store.append([Change(Table.HEADER, shard, HEADER_KEY, b"h")])
    store.append([put("a", shard=1)])
    assert store.shards() == [3, 9]
    store.append([Change(Table.HEADER, 9, HEADER_KEY)])
    assert store.shards() == [3]


def test_memory_is_durable_when_the_driver_says_so() -> None:
    """The listener hears the last ticket, once."""
    told: list[tuple[int, Commit]] = []
    store: MemoryStore[bytes] = MemoryStore(lambda *end: told.append(end))
    assert store.commit() == 0
    tickets = [store.append([put("a")]), store.append([put("b")])]
    assert told == []
    assert store.commit() == store.commit() == store.durable == tickets[-1]
    assert told == [(tickets[-1], Commit.DURABLE)]
    silent: MemoryStore[bytes] = MemoryStore()
    assert silent.commit() == 0
    assert silent.append([put("a")]) == silent.commit()


def test_copies_of_rows_are_apart() -> None:
    """What changes in one does not change in the other."""
    rows: Rows[bytes] = Rows()
    rows.apply(3, [put("a", b"1")])
    other = rows.copy()
    other.apply(4, [put("a", b"2"), put("b")])
    assert rows.get(RECORD, 1, "a") == b"1"
    assert rows.names() == [(RECORD, 1, "a")]
    assert (rows.counter, other.counter) == (3, 4)


# Commits


def test_commits_take_all_that_waits() -> None:
    """The first batch goes alone, those that came meanwhile together."""
    machine = Machine(faults=DiskFaults(latency_us=1_000))
    tickets = [machine.store.append([put(str(number))]) for number in range(5)]
    assert machine.told == []
    machine.settle()
    assert machine.told == [(tickets[0], Commit.DURABLE), (tickets[-1], Commit.DURABLE)]
    assert machine.store.durable == tickets[-1]
    assert machine.disk.statistics()[:2] == (5, 2)


def test_a_paused_process_hears_late() -> None:
    """The disk works on while the process stands still."""
    machine = Machine()
    machine.store.append([put("a")])
    machine.scheduler.pause(0)
    machine.settle()
    assert machine.told == []
    assert machine.store.durable == 0
    machine.crash(power=True)
    machine.start()
    assert machine.keys() == ["a"]


def test_latency_is_as_asked_and_stalls_are_rare() -> None:
    """Half to three halves of the mean, and now and then much more."""
    machine = Machine(faults=DiskFaults(latency_us=1_000, stall_rate=0.1, stall_us=10_000_000))
    times = [machine.disk.draw_latency_us() for _ in range(2_000)]
    stalls = [time for time in times if time > 1_500]
    assert min(times) >= 500
    assert 140 < len(stalls) < 260
    assert max(stalls) > 5_000_000


# Crashes


@pytest.mark.parametrize("power", [False, True])
def test_what_was_heard_durable_survives(power: bool) -> None:
    """Also a power cut; and what had no commit yet is lost, whole."""
    machine = Machine()
    machine.write("a")
    first = machine.store.append([put("b1"), put("b2")])
    machine.store.append([put("c")])
    machine.crash(power=power)
    assert not machine.disk.is_open
    outcomes = set()
    machine.start()
    outcomes.add(tuple(machine.keys()))
    assert outcomes <= {("a",), ("a", "b1", "b2")}
    assert machine.store.durable in {first - 1, first}
    machine.settle()
    assert machine.told == []


@pytest.mark.parametrize("power", [False, True])
def test_a_commit_under_way_is_whole_or_lost(power: bool) -> None:
    """Either way happens, over seeds; never a part of a batch."""
    outcomes = set()
    for seed in range(40):
        machine = Machine(seed)
        machine.store.append([put("a"), put("b")])
        machine.crash(power=power)
        machine.start()
        outcomes.add(tuple(machine.keys()))
        lost = machine.disk.statistics().lost
        assert lost == (not machine.keys())
    assert outcomes == {(), ("a", "b")}


def test_a_commit_in_the_cache_is_synced_with_the_next() -> None:
    """What a killed process had written is dirty, not lost: the next fsync writes it too."""
    for seed in range(40):
        machine = Machine(seed)
        machine.write("a")
        machine.store.append([put("b")])
        machine.crash()
        machine.start(checkpoint=False)
        before = machine.keys()
        machine.write("c")
        machine.crash(power=True)
        machine.start()
        assert machine.keys() == [*before, "c"]


def test_tickets_rise_over_restarts() -> None:
    """The append counter is that of the file; it goes back only with what is in it."""
    machine = Machine()
    tickets = []
    for _ in range(4):
        tickets.append(machine.store.append([put("a")]))
        machine.settle()
        machine.crash(power=True)
        machine.start()
        assert machine.store.durable == tickets[-1]
    assert tickets == sorted(set(tickets))


def test_a_closed_store_takes_nothing() -> None:
    """An append of a dead process is an error, and changes nothing."""
    machine = Machine()
    old = machine.store
    machine.crash()
    with pytest.raises(StoreError, match="closed"):
        old.append([put("a")])
    machine.start()
    assert machine.keys() == []


# Faults


def test_a_full_disk_rolls_back_and_the_process_goes_on() -> None:
    """The batch can no longer be read, nor what came after it; what comes later is durable."""
    machine = Machine()
    machine.write("a", b"old")
    machine.disk.is_full = True
    machine.store.append([put("a", b"new"), put("b")])
    refused = machine.store.append([put("c")])
    assert machine.store.get(RECORD, 1, "a") == b"new"
    machine.scheduler.run(machine.scheduler.now_us + 700, stop=lambda: len(machine.told) == 2)
    machine.disk.is_full = False
    machine.settle()
    assert machine.told[1:] == [(refused, Commit.FULL)]
    assert machine.store.get(RECORD, 1, "a") == b"old"
    assert machine.keys() == ["a"]
    assert machine.disk.statistics().full == 1
    kept = machine.store.append([put("d")])
    machine.settle()
    assert machine.told[2:] == [(kept, Commit.DURABLE)]
    assert machine.keys() == ["a", "d"]
    machine.disk.is_full = True
    again = machine.store.append([put("e")])
    machine.settle()
    assert machine.store.append([put("f")]) > again


def test_nothing_is_durable_before_a_process_hears_of_a_full_disk() -> None:
    """A paused one appended more while there was no room; by when it hears there is some."""
    machine = Machine()
    machine.disk.is_full = True
    machine.store.append([put("a")])
    machine.scheduler.pause(machine.disk.node)
    machine.settle()
    machine.disk.is_full = False
    last = machine.store.append([put("b")])
    machine.settle()
    assert machine.told == []
    machine.scheduler.resume(machine.disk.node)
    machine.settle()
    assert machine.told == [(last, Commit.FULL)]
    assert machine.keys() == []


def test_an_fsync_error_ends_the_process() -> None:
    """Nothing was told to be durable, the store takes nothing more, and it happens once."""
    machine = Machine()
    machine.disk.fails_next_sync = True
    store = machine.store
    store.append([put("a")])
    store.append([put("b")])
    machine.settle()
    assert machine.errors == 1
    assert machine.told == []
    with pytest.raises(StoreError):
        store.append([put("c")])
    machine.start()
    machine.write("d")
    assert machine.errors == 1
    assert machine.keys() == ["a", "d"]  # "a" was in the page cache, "b" in the process
    assert machine.disk.statistics().sync_errors == 1


@pytest.mark.parametrize("checkpoint", [True, False])
def test_what_is_committed_behind_a_hole_is_lost_with_it(checkpoint: bool) -> None:
    """After an fsync error only a checkpoint makes later commits safe from a power cut."""
    machine = Machine()
    machine.write("a")
    machine.disk.fails_next_sync = True
    machine.write("b")
    machine.start(checkpoint=checkpoint)
    assert machine.keys() == ["a", "b"]
    machine.write("c")
    assert [commit for _, commit in machine.told] == [Commit.DURABLE]
    machine.crash()
    machine.start(checkpoint=checkpoint)
    assert machine.keys() == ["a", "b", "c"]
    machine.crash(power=True)
    machine.start()
    assert machine.keys() == (["a", "b", "c"] if checkpoint else ["a"])


def test_a_checkpoint_can_fail_too() -> None:
    """Then nothing is opened; the next try may succeed, and has everything."""
    machine = Machine()
    machine.disk.fails_next_sync = True
    machine.write("a")
    machine.disk.fails_next_sync = True
    with pytest.raises(StoreError, match="checkpoint failed"):
        machine.start()
    assert not machine.disk.is_open
    machine.start()
    assert machine.keys() == ["a"]


def test_sync_errors_come_at_their_rate() -> None:
    """And none without a rate."""
    machine = Machine(faults=DiskFaults(sync_error_rate=0.0))
    machine.write("a")
    assert machine.errors == 0
    machine.disk.faults = DiskFaults(sync_error_rate=1.0)
    machine.write("b")
    assert machine.errors == 1


def test_a_lost_file_cannot_be_opened_until_it_is_made_anew() -> None:
    """It is refused, not taken for an empty one."""
    machine = Machine()
    machine.write("a")
    with pytest.raises(StoreLockedError, match="crash the process"):
        machine.disk.lose()
    machine.crash()
    machine.disk.lose()
    assert machine.disk.is_lost
    with pytest.raises(StoreLostError):
        machine.start()
    machine.disk.format()
    machine.start()
    assert machine.keys() == []
    assert machine.store.durable == 0


def test_an_open_store_is_locked() -> None:
    """A second process is refused; without the lock both write, and one may die alone."""
    machine = Machine()
    machine.scheduler.start(50)
    with pytest.raises(StoreLockedError, match="another process"):
        machine.disk.open(lambda *_: None, lambda: None)
    told: list[int] = []
    other = machine.disk.open(
        lambda ticket, _: told.append(ticket), lambda: None, lock=False, process=50
    )
    mine, theirs = machine.store.append([put("a")]), other.append([put("b")])
    assert mine < theirs
    machine.settle()
    assert [ticket for ticket, _ in machine.told] == [mine]
    assert told == [theirs]
    other.append([put("c")])
    machine.disk.crash(process=0)
    assert machine.disk.is_open
    machine.settle()
    assert len(told) == 2
    assert [key for key, _ in other.scan(RECORD, 1)] == ["a", "b", "c"]


def test_rot_spoils_one_row_for_good() -> None:
    """One bit of one record; also after a restart, and only in the table that was asked for."""
    machine = Machine()
    assert machine.disk.rot() is None
    header = Change(Table.HEADER, 1, HEADER_KEY, b"header")
    machine.store.append([header, put("a", b"aaaa"), put("b", b"bbbb")])
    machine.settle()
    hit = machine.disk.rot()
    assert hit is not None
    for _ in range(2):
        rows = dict(machine.store.scan(RECORD, 1))
        assert rows.keys() == {"a", "b"}
        spoilt = [key for key in "ab" if rows[key] != key.encode() * 4]
        assert (1, spoilt[0]) == hit
        assert len(spoilt) == 1
        assert machine.store.get(Table.HEADER, 1, HEADER_KEY) == b"header"
        machine.crash(power=True)
        machine.start()
    assert machine.disk.rot(Table.HEADER) == (1, HEADER_KEY)
    assert machine.store.get(Table.HEADER, 1, HEADER_KEY) != b"header"


def test_a_key_can_rot() -> None:
    """The row is under a wrong name, and missing under its own."""
    machine = Machine()
    machine.write("a", b"data")
    assert machine.disk.rot(in_key=True) == (1, "a")
    (key, data), *others = machine.store.scan(RECORD, 1)
    assert key != "a"
    assert (data, others) == (b"data", [])


def test_rows_of_any_type_rot_by_the_given_hand() -> None:
    """What is not bytes needs to be told what rot makes of it."""
    scheduler = Scheduler()
    scheduler.start(0)
    disk: SimDisk[int] = SimDisk(scheduler, Random(1), 0, spoil=lambda data, _: -data)
    store = disk.open(lambda *_: None, lambda: None)
    store.append([Change(RECORD, 1, "a", 5)])
    scheduler.run(1_000_000)
    assert disk.rot() == (1, "a")
    assert store.get(RECORD, 1, "a") == -5
    plain: SimDisk[int] = SimDisk(scheduler, Random(1), 0)
    plain.open(lambda *_: None, lambda: None).append([Change(RECORD, 1, "a", 5)])
    scheduler.run(2_000_000)
    with pytest.raises(TypeError, match="type int rots"):
        plain.rot()


def test_a_flipped_bit_is_one_bit() -> None:
    """Of any bytes, also of none."""
    random = Random(1)
    for length in range(1, 20):
        data = random.randbytes(length)
        flipped = flip_bit(data, random)
        difference = int.from_bytes(data, "big") ^ int.from_bytes(flipped, "big")
        assert difference.bit_count() == 1
        assert len(flipped) == length
    assert flip_bit(b"", random) == b"\0"


def test_a_clone_is_the_disk_as_it_was() -> None:
    """For another node a second identity, for the same one a rollback; what follows is apart."""
    machine = Machine()
    machine.write("a")
    machine.store.append([put("unsynced")])
    image = machine.disk.clone(Random(2), node=7)
    old = machine.disk.clone(Random(3))
    machine.write("b")
    machine.scheduler.start(7)
    copy = image.open(lambda *_: None, lambda: None)
    assert [key for key, _ in copy.scan(RECORD, 1)] == ["a"]
    copy.append([put("c")])
    assert machine.keys() == ["a", "b", "unsynced"]
    machine.crash()
    machine.disk, before = old, machine.store.durable
    machine.start()
    assert machine.keys() == ["a"]
    assert machine.store.durable < before
    lost: SimDisk[bytes] = SimDisk(machine.scheduler, Random(1), 3)
    lost.lose()
    assert lost.clone(Random(1)).is_lost


def test_a_file_that_is_set_back_has_forgotten() -> None:
    """Rows and counter; what is written then has the numbers of what was forgotten."""
    machine = Machine()
    machine.write("a")
    image = machine.disk.clone(Random(2))
    machine.write("b")
    with pytest.raises(StoreLockedError):
        machine.disk.set_back(image)
    before = machine.store.durable
    machine.crash()
    machine.disk.set_back(image)
    machine.start()
    assert machine.keys() == ["a"]
    assert machine.store.durable < before
    machine.write("c")
    machine.crash(power=True)
    machine.disk.set_back(image)
    machine.start()
    assert machine.keys() == ["a"], "the image has gone on"


def test_two_runs_of_a_seed_are_the_same() -> None:
    """Latencies, stalls and the outcome of crashes come from the seed alone."""

    def run(seed: int) -> list[object]:
        machine = Machine(seed, DiskFaults(stall_rate=0.1, stall_us=50_000))
        seen: list[object] = []
        for number in range(50):
            machine.store.append([put(str(number))])
            machine.scheduler.run(machine.scheduler.now_us + 300)
            seen.append(tuple(machine.told))
            if number % 10 == 9:
                machine.crash(power=number % 20 == 9)
                machine.start()
                seen.append(machine.keys())
        return seen

    assert run(5) == run(5)
    assert run(5) != run(6)
