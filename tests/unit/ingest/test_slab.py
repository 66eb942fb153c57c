from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from trips import LIFETIME

from featureflow import limits
from featureflow.clock import NO_TIME_US
from featureflow.define.spec import DEFAULT_PROJECT, Aggregation, Call, Column, Field, Literal, Source, View, Window
from featureflow.errors import StateError
from featureflow.ingest import slots
from featureflow.ingest.slab import Slab
from featureflow.kernel import state
from featureflow.kernel.columns import Layout
from featureflow.kernel.events import Events
from featureflow.kernel.partial.base import LOWEST
from featureflow.kernel.partial.basic import Count, Max, Min, Sum
from featureflow.kernel.partial.newest import LastN
from featureflow.kernel.partial.time import Earliest
from featureflow.kernel.tile import LIFETIME_US, SECOND_US
from featureflow.store.keys import Keys
from featureflow.store.online.writes import StateWrite, Writes

KEYS = Keys(DEFAULT_PROJECT)

NOW_US = 1_700_000_000 * SECOND_US
PAY = Source(
    name="pay", topic="pay", time_field="at", disorder_us=5 * SECOND_US, future_us=0,
    fields=(
        Field(name="user", type="str", entity="user"), Field(name="shop", type="int", entity="shop"),
        Field(name="at", type="datetime"), Field(name="amount", type="float", nullable=True),
    ),
)


def sliding(seconds: int) -> Window:
    return Window(kind="sliding", length_us=seconds * SECOND_US, text=f"{seconds}s")


def tumbling(seconds: int) -> Window:
    return Window(kind="tumbling", length_us=seconds * SECOND_US, text=f"{seconds}s")


def exact(window: Window) -> Window:
    return Window(kind=window.kind, length_us=window.length_us, text=window.text, exact=True)




def layout_of(*windows: Window, key: str = "user", keyed_by: str | None = None, size: int = 0) -> Layout:
    amount, positive = Column("amount"), Call("gt", (Column("amount"), Literal(0.0)))
    declared = [
        Aggregation(name=op, op=op, source="pay", value=None if op == "count" else amount, where=positive if op == "max" else None,
                    windows=windows)
        for op in ("count", "sum", "min", "max")
    ]
    if size:
        declared.append(
            Aggregation(name="newest", op="last_n", source="pay", value=amount, where=None, windows=(LIFETIME,), bare=True, size=size)
        )
    view = View(name="paid", entity=key, join_key=key, keys={"pay": key}, aggregations=tuple(declared), version="v1")
    return Layout.of(view, Source(**{f: getattr(PAY, f) for f in PAY.__struct_fields__} | {"keyed_by": keyed_by}))


LAYOUTS = {
    "two sliding windows": layout_of(sliding(12), sliding(120)),
    "a long window": layout_of(sliding(12), sliding(3_600)),
    "three tiles, one key over all partitions": layout_of(sliding(12), sliding(120), sliding(3_600), keyed_by="user"),
    "tumbling, keyed by a number": layout_of(tumbling(10), tumbling(60), key="shop"),
    "lifetime and newest values": layout_of(LIFETIME, sliding(120), size=2),
    "lifetime alone": layout_of(LIFETIME),
    "a session": layout_of(Window(kind="session", length_us=120 * SECOND_US, text="2s", gap_us=2 * SECOND_US), sliding(12)),
    "an exact window": layout_of(exact(sliding(12)), sliding(120)),
}

Happened = tuple[int, float | None, int, int]          # event time, amount, partition, offset


def events_of(partition: int, first: int, seen: Sequence[tuple[int, int, float | None]]) -> Events:
    """Events (entity number, time, amount) at consecutive offsets."""
    times = np.array([t for _, t, _ in seen], np.int64)
    users = np.empty(len(seen), object)
    users[:] = [f"u:{n}" for n, _, _ in seen]
    return Events(
        partition, np.arange(first, first + len(seen)), times, times,
        {"user": users, "shop": np.array([n for n, _, _ in seen], np.float64),
         "amount": np.array([np.nan if a is None else a for _, _, a in seen], np.float64)},
    )


class Store:
    """State keys in a dict, with the checks that the real stores make before they write."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.values: dict[bytes, bytes] = {}

    def apply(self, written: Writes) -> list[int]:
        """Apply all of the writes, or none: then the places of those whose key is gone."""
        written.check()
        writes = list(written)
        gone = []
        for i, write in enumerate(writes):
            value = self.values.get(write.key, b"")
            assert (write.whole is None) == bool(write.patches)
            if len(value) != write.expected_bytes:
                assert not value, f"{write.key!r} has {len(value)} bytes, not {write.expected_bytes}"
                gone.append(i)
            assert not value or value[: self.layout.header_bytes] == write.header
            assert not write.expected_bytes or len(write.header) == self.layout.header_bytes
            assert write.ttl_ms >= self.layout.ttl_ms
        if gone:
            return gone
        for write in writes:
            data = bytearray(self.values.get(write.key, b"")) if write.whole is None else bytearray(write.whole)
            for patch in write.patches:
                assert self.layout.header_bytes <= patch.position <= len(data), "a patch leaves a hole"
                data[patch.position:patch.position + len(patch.data)] = patch.data
            self.values[write.key] = bytes(data)
            if not data:
                del self.values[write.key]
        return []


def fold(slab: Slab, store: Store, events: Events, watermark_us: int, commit_of: Sequence[int] | None = None) -> list[Writes]:
    """Load, place and fold all of the events: what each commit writes, of which there is one unless ``commit_of`` names one for each."""
    partition, ids = events.partition, slab.ids(events)
    absent = [ids[i] for i in np.flatnonzero(slab.find(partition, ids) < 0)]
    slab.load(partition, distinct := list(dict.fromkeys(absent)), [store.values.get(slab.key(partition, i)) for i in distinct])
    numbers = np.array([0] * len(events) if commit_of is None else commit_of, np.int64)
    placed = slab.place(partition, events, np.arange(len(events)), slab.find(partition, ids), watermark_us)
    return [writes for writes, _ in slab.fold(placed, numbers, int(numbers.max()) + 1)]


Rows = dict[tuple[int, int], tuple[object, ...]]


def rows_of(layout: Layout, blob: bytes | None) -> Rows:
    """(level, start) -> what the row says, for rows that begin at or after the horizon."""
    out: Rows = {}
    if blob is None:
        return out
    states = state.parse(layout, [[blob]])
    for row, table in zip(states.rows, layout.table(states.rows), strict=True):
        if row["start"] < states.horizons[0]:
            continue
        said: list[object] = [int(row["t_max"])]
        for partial, places in layout.positions.items():
            columns = [int(table[place]) for place in places]
            if isinstance(partial, Count):
                said.append(columns[0])
            elif isinstance(partial, Sum):
                said.append(Fraction(sum(limb << (40 * i) for i, limb in enumerate(columns)), 2**56))
            elif isinstance(partial, Min | Max):
                said.append(None if columns[0] == LOWEST else float(partial.read(np.array([columns]).T)[0]))
            elif isinstance(partial, Earliest):
                said.append(~columns[0])
            else:
                assert isinstance(partial, LastN)
                said.append([tuple(columns[i:i + 3]) for i in range(0, len(columns), 3) if columns[i] != NO_TIME_US])
        key = (int(row["level"]), int(row["start"]))
        assert key not in out, "two rows of one tile"
        out[key] = tuple(said)
    return out


def replay(layout: Layout, blob: bytes | None, happened: Sequence[Happened]) -> Rows:
    """What ``rows_of`` should give after all that happened, by plain arithmetic, with the frontiers that the value states."""
    tiles: dict[tuple[int, int], list[Happened]] = {}
    if blob is None:
        return {}
    states = state.parse(layout, [[blob]])
    for event in happened:
        level = max([i for i, f in enumerate(states.frontiers[0].tolist(), 1) if event[0] < f], default=0)
        tile = layout.levels[level]
        start = -(2**62) if tile == LIFETIME_US else event[0] // tile * tile
        if start >= states.horizons[0]:
            tiles.setdefault((level, start), []).append(event)
    out: Rows = {}
    for key, inside in tiles.items():
        said: list[object] = [max(t for t, _, _, _ in inside)]
        for partial in layout.positions:
            counted = [
                event for event in inside
                if (partial.value is None or event[1] is not None) and (partial.where is None or (event[1] or 0) > 0)
            ]
            kept = [amount for _, amount, _, _ in counted if amount is not None]
            if isinstance(partial, Count):
                said.append(len(counted))
            elif isinstance(partial, Sum):
                said.append(sum(map(Fraction, kept), Fraction(0)))
            elif isinstance(partial, Earliest):
                said.append(min(t for t, _, _, _ in counted))
            elif isinstance(partial, Min | Max):
                said.append((min if isinstance(partial, Min) else max)(kept) if kept else None)
            else:
                assert isinstance(partial, LastN)
                newest = sorted(((t, p << 48 | o, a) for t, a, p, o in counted), reverse=True)[:partial.size]
                said.append([(t, at, int(np.array([a]).view(np.int64)[0])) for t, at, a in newest])
        out[key] = tuple(said)
    return out


amounts = st.none() | st.integers(-(2**40), 2**40).map(lambda n: n / 1024 + 0.0)
seen = st.tuples(st.integers(0, 3), st.integers(-3 * SECOND_US, 3 * SECOND_US), amounts)


class SlabMachine(RuleBasedStateMachine):
    """Whatever is folded, committed in parts, refused, evicted and loaded again, the store says what a replay of the log says."""

    @initialize(name=st.sampled_from(sorted(LAYOUTS)))
    def begin(self, name: str) -> None:
        self.layout = LAYOUTS[name]
        self.store = Store(self.layout)
        self.slab = Slab(self.layout, KEYS, max_bytes=20_000)
        self.committed: dict[bytes, list[Happened]] = {}
        self.partition = 0
        self.now = [NOW_US, NOW_US]
        self.watermark = [NO_TIME_US, NO_TIME_US]
        self.offset = 0

    @rule(
        batch=st.lists(seen, min_size=1, max_size=30), step=st.sampled_from([0, 1, 1, 3, 20, 200]), spread=st.sampled_from([0, 1, 1]),
        ends=st.sets(st.integers(1, 29)), applied=st.sampled_from([0, 1, 2, 99, 99, 99]), expire=st.integers(0, 3),
    )
    def fold(
        self, batch: list[tuple[int, int, float | None]], step: int, spread: int, ends: set[int], applied: int, expire: int
    ) -> None:
        chosen = []
        for i, (n, jitter, amount) in enumerate(batch):
            self.now[self.partition] += step * SECOND_US if spread or i == 0 else 0
            chosen.append((n, self.now[self.partition] + jitter, amount))
        self.take(chosen, ends, applied, expire)

    @rule(
        n=st.integers(0, 3), times=st.integers(10, 40), step=st.integers(1, 4), back=st.integers(0, 100), ends=st.sets(st.integers(1, 39))
    )
    def fold_many_rows_of_one_entity(self, n: int, times: int, step: int, back: int, ends: set[int]) -> None:
        self.now[self.partition] += times * step * SECOND_US
        latest = self.now[self.partition] - back * SECOND_US
        self.take([(n, latest - i * step * SECOND_US, 1.0) for i in reversed(range(times))], ends, 99, 0)

    def take(self, chosen: list[tuple[int, int, float | None]], ends: set[int], applied: int, expire: int) -> None:
        """Fold in parts that end there; the first ``applied`` commits come through. Before the last of these some keys expire."""
        partition = self.partition
        if self.layout.keyed:
            chosen = [(2 * n + partition, t, amount) for n, t, amount in chosen]
        events = events_of(partition, self.offset, chosen)
        self.offset += len(chosen)
        commit_of = np.searchsorted(sorted(end for end in ends if end < len(chosen)), np.arange(len(chosen)), side="right")
        parts = fold(self.slab, self.store, events, self.watermark[partition], commit_of.tolist())
        done = 0
        for number, writes in enumerate(parts[:applied]):
            if number == min(applied, len(parts)) - 1:
                for key in [write.key for write in writes if write.patches][:expire]:
                    del self.store.values[key], self.committed[key]
            if self.store.apply(writes):
                break
            done += 1
            for i in np.flatnonzero(commit_of == number).tolist():
                _, t, amount = chosen[i]
                self.watermark[partition] = max(self.watermark[partition], t)
                key = self.slab.key(partition, self.slab.ids(events)[i])
                self.committed.setdefault(key, []).append((t, amount, partition, int(events.offsets[i])))
        self.slab.committed([0] * done + [-1] * (len(parts) - done))

    @rule(partition=st.integers(0, 1))
    def refused(self, partition: int) -> None:
        self.slab.drop(partition)

    @rule()
    def evict(self) -> None:
        self.slab.evict()

    @rule()
    def other_partition(self) -> None:
        self.partition = 1 - self.partition

    @invariant()
    def the_store_says_what_a_replay_says(self) -> None:
        for key in {*self.store.values, *self.committed}:
            blob = self.store.values.get(key)
            assert rows_of(self.layout, blob) == replay(self.layout, blob, self.committed[key])


TestAnySequence = SlabMachine.TestCase
TestAnySequence.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


class Driver:
    """One partition's slab and store, fed by hand."""

    def __init__(self, layout: Layout, max_bytes: int = 1 << 30) -> None:
        self.layout, self.store, self.slab = layout, Store(layout), Slab(layout, KEYS, max_bytes)
        self.watermark, self.offset = NOW_US, 0
        self.happened: dict[bytes, list[Happened]] = {}

    def fold(self, *seen: tuple[int, float], partition: int = 0, commit_of: Sequence[int] | None = None) -> list[Writes]:
        """(entity number, seconds after ``NOW_US``), each with amount 1: what each commit writes."""
        events = events_of(partition, self.offset, [(n, NOW_US + int(t * SECOND_US), 1.0) for n, t in seen])
        self.offset += len(seen)
        parts = fold(self.slab, self.store, events, self.watermark, commit_of)
        self.watermark = max(self.watermark, int(events.times_us.max()))
        for entity_id, t, offset in zip(self.slab.ids(events), events.times_us.tolist(), events.offsets.tolist(), strict=True):
            self.happened.setdefault(self.slab.key(partition, entity_id), []).append((t, 1.0, partition, offset))
        return parts

    def commit(self, *seen: tuple[int, float], partition: int = 0) -> list[StateWrite]:
        """Fold in one part, and commit it."""
        (writes,) = self.fold(*seen, partition=partition)
        assert not self.store.apply(writes)
        self.slab.committed([0])
        for write in (each := list(writes)):
            blob = self.store.values[write.key]
            assert rows_of(self.layout, blob) == replay(self.layout, blob, self.happened[write.key])
        return each


@pytest.fixture
def driver() -> Driver:
    return Driver(LAYOUTS["two sliding windows"])


def test_a_new_entity_is_written_whole_over_nothing(driver: Driver) -> None:
    (write,) = driver.commit((1, 0), (1, 0.5), (1, 1))
    assert (write.expected_bytes, write.header, write.patches) == (0, b"", ())
    assert write.whole is not None
    assert len(write.whole) == driver.layout.header_bytes + 2 * driver.layout.row_bytes


def test_only_the_rows_that_were_touched_are_patched_and_neighbours_share_a_patch(driver: Driver) -> None:
    driver.commit((1, 0), (1, 1), (1, 2), (2, 0))
    size, header = driver.layout.row_bytes, driver.layout.header_bytes
    (write,) = driver.commit((1, 0), (1, 2), (1, 3), (1, 4))
    assert write.expected_bytes == header + 3 * size
    assert [(patch.position, len(patch.data)) for patch in write.patches] == [(header, size), (header + 2 * size, 3 * size)]


def test_a_row_that_several_events_touch_is_patched_once_in_a_commit(driver: Driver) -> None:
    driver.commit((1, 0))
    (write,) = driver.commit((1, 0), (1, 1), (1, 0), (1, 1))
    assert [len(patch.data) for patch in write.patches] == [2 * driver.layout.row_bytes]


def test_events_of_an_exact_window_are_rows_of_their_own_and_those_of_one_microsecond_share_one() -> None:
    driver = Driver(LAYOUTS["an exact window"])
    writes = driver.commit((1, 0.25), (1, 0), (2, 0.5), (1, 0.000_001), (1, 0.25), (2, 0))
    sizes = {write.key: len(write.whole or b"") - driver.layout.header_bytes for write in writes}
    rows = [sizes[driver.slab.key(0, user)] / driver.layout.row_bytes for user in ("u:1", "u:2")]
    assert rows == [3, 2]


def test_each_commit_of_a_batch_writes_what_its_rows_are_then_on_top_of_the_ones_before(driver: Driver) -> None:
    driver.commit((1, 0))
    size, header = driver.layout.row_bytes, driver.layout.header_bytes
    first, second = driver.fold((1, 0), (2, 5), (1, 1), (1, 0), (1, 2), (2, 4), commit_of=[0, 0, 0, 1, 1, 1])
    (one, two), (more, again) = list(first), list(second)
    assert [(p.position, len(p.data)) for p in one.patches] == [(header, 2 * size)]
    assert (two.expected_bytes, len(two.whole or b"")) == (0, header + size)
    assert more.expected_bytes == header + 2 * size
    assert [(p.position, len(p.data)) for p in more.patches] == [(header, size), (header + 2 * size, size)]
    assert again.expected_bytes == header + size
    assert [(p.position, len(p.data)) for p in again.patches] == [(header + size, size)]
    assert again.header == (two.whole or b"")[:header]
    assert (more.renew_ms, again.renew_ms) == (one.renew_ms, 0)


def test_what_comes_after_a_commit_that_was_refused_is_forgotten_and_read_again(driver: Driver) -> None:
    driver.commit((1, 0), (2, 0), (3, 0))
    first, _ = driver.fold((1, 0), (2, 0), (2, 0), (3, 0), commit_of=[0, 0, 1, 1])
    driver.store.apply(first)
    driver.slab.committed([0, -1])
    assert driver.slab.find(0, ["u:1", "u:2", "u:3"]).tolist() == [driver.slab.find(0, ["u:1"])[0], -1, -1]
    driver.happened[driver.slab.key(0, "u:2")].pop()
    driver.happened[driver.slab.key(0, "u:3")].pop()
    driver.commit((2, 0), (3, 0))


def test_a_part_without_events_writes_nothing(driver: Driver) -> None:
    first, second, third = driver.fold((1, 0), (1, 0), commit_of=[0, 2])
    assert (len(first), second, len(third)) == (1, Writes(), 1)


@pytest.mark.parametrize("commits", [499, 500, 2_100, 5_000])
def test_each_of_any_number_of_commits_writes_the_one_row_of_its_own(driver: Driver, commits: int) -> None:
    """Of entities that are new, that others of the batch touch before, and that the store has."""
    driver.commit(*((n, 0) for n in range(0, 700, 2)))
    seen = [(n % 700, 1 + n // 700) for n in range(commits)]
    parts = driver.fold(*seen, commit_of=range(commits))
    for (n, _), part in zip(seen, parts, strict=True):
        assert part.keys == (driver.slab.key(0, f"u:{n}"),)
        assert not driver.store.apply(part)
    driver.slab.committed([0] * commits)
    for key, happened in driver.happened.items():
        assert rows_of(driver.layout, driver.store.values[key]) == replay(driver.layout, driver.store.values[key], happened)


def test_an_entity_is_rolled_up_when_half_its_rows_can_be_and_is_written_whole_over_its_old_length(driver: Driver) -> None:
    writes = []
    for t in range(0, 600, 2):
        (write,) = driver.commit((1, t))
        writes.append(write)
    whole = [write for write in writes[1:] if write.whole is not None]
    assert 2 <= len(whole) < 30
    assert all(write.expected_bytes > len(write.whole or b"") for write in whole)
    assert max(len(value) for value in driver.store.values.values()) < 250 * driver.layout.row_bytes


def test_a_batch_rolls_up_only_so_many_rows_and_leaves_the_rest_for_the_next(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ROLL_UP_ROWS", 50)
    driver.commit(*((n, t) for n in range(8) for t in range(20)))
    driver.commit((9, 1_000))
    assert sum(write.whole is not None for write in driver.commit(*((n, 1_000) for n in range(8)))) == 2
    assert sum(write.whole is not None for write in driver.commit(*((n, 1_000) for n in range(8)))) == 2


def test_rows_that_are_rolled_up_weigh_on_the_commit_that_writes_them(driver: Driver) -> None:
    driver.commit(*((n, t) for n in (1, 3) for t in range(20)))
    driver.commit((3, 1_000), (4, 1_000))
    events = events_of(0, driver.offset, [(2, NOW_US + 1_000 * SECOND_US, 1.0), (1, NOW_US + 1_000 * SECOND_US, 1.0)] * 2)
    driver.slab.load(0, ["u:2"], [None])
    placed = driver.slab.place(0, events, np.arange(4), driver.slab.find(0, driver.slab.ids(events)), driver.watermark)
    assert sorted(zip(*map(list, placed.rows), strict=True)) == [(0, -1), (1, -1), (2, 0), (3, 1)]
    assert sorted(zip(*map(list, placed.keys), strict=True)) == [(0, -1), (1, -1), (2, 0), (3, 1)]
    assert placed.whole.rows.tolist() == [0]                # all of its rows are dead
    assert driver.slab.fold(placed, np.zeros(4, np.int64), 1)[0][1] == 2


def test_rows_that_can_no_longer_be_asked_for_leave_the_store(driver: Driver) -> None:
    driver.commit(*((1, t) for t in range(20)))
    driver.commit((2, 10_000))
    (write,) = driver.commit((1, 10_000))
    assert write.whole is not None
    assert len(write.whole) == driver.layout.header_bytes + driver.layout.row_bytes


def test_an_entity_that_is_old_when_it_is_first_seen_lands_in_large_tiles() -> None:
    driver = Driver(layout_of(sliding(12), sliding(12_000)))
    driver.commit((1, 0), (1, 1), (1, 2), (2, 5_000))
    assert len(driver.store.values[driver.slab.key(0, "u:1")]) == driver.layout.header_bytes + driver.layout.row_bytes


def test_a_key_that_expired_is_read_again_and_then_written_whole(driver: Driver) -> None:
    driver.commit((1, 0), (2, 0), (3, 0))
    (writes,) = driver.fold((1, 1), (2, 1), (3, 1))
    del driver.store.values[gone := driver.slab.key(0, "u:2")]
    assert [writes.keys[i] for i in driver.store.apply(writes)] == [gone]
    driver.slab.committed([-1])
    driver.happened = {key: happened[:-1] for key, happened in driver.happened.items() if key != gone}
    assert [write.key for write in driver.commit((1, 1), (2, 1), (3, 1)) if write.whole is not None] == [gone]


def test_state_lives_as_long_as_it_may_be_needed_after_any_write_of_it_and_is_seldom_renewed() -> None:
    """By the store's clock: a write renews a life from its ``renew_ms`` on, to its ``ttl_ms``."""
    driver = Driver(layout_of(sliding(10), sliding(120)))
    needed_ms, rng = driver.layout.ttl_ms, np.random.default_rng(0)
    now_ms, dies_ms, renewals = 1_000, 0, 0
    for _ in range(400):
        ((write,),) = driver.fold((1, 0))
        if write.whole is not None or now_ms >= write.renew_ms:
            dies_ms, renewals = now_ms + write.ttl_ms, renewals + 1
        assert needed_ms <= dies_ms - now_ms <= 1.2 * needed_ms
        driver.store.apply(Writes.of([write]))
        driver.slab.committed([now_ms])
        now_ms += int(rng.integers(0, needed_ms // 20))
    assert renewals < 120


def test_a_life_that_began_before_the_claim_is_renewed_by_the_first_write(driver: Driver) -> None:
    driver.commit((1, 0))
    driver.slab.drop(0)
    ((write,),) = driver.fold((1, 1))
    assert write.patches
    assert write.renew_ms == 0


def test_dropping_a_partition_forgets_what_was_folded_and_leaves_other_partitions(driver: Driver) -> None:
    driver.commit((1, 0), partition=0)
    driver.fold((1, 0), partition=1)
    driver.slab.drop(1)
    driver.slab.committed([-1])
    assert driver.slab.find(1, ["u:1"]).tolist() == [-1]
    assert driver.slab.find(0, ["u:1"]).tolist() != [-1]


def test_one_batch_is_folded_on_top_of_another_that_is_not_known_to_be_committed_and_no_more(driver: Driver) -> None:
    driver.fold((1, 0), partition=0)
    driver.fold((1, 0), partition=0)
    for partition in (0, 1):
        with pytest.raises(RuntimeError, match="partition 0 has folds to commit"):
            driver.fold((1, 0), partition=partition)


def test_what_is_folded_on_top_of_a_batch_that_is_on_its_way_is_written_as_if_that_were_there(driver: Driver) -> None:
    driver.commit((1, 0))
    (first,) = driver.fold((1, 0), (1, 1), (2, 0))
    (second,) = driver.fold((1, 1), (2, 1), (3, 0))
    size, header = driver.layout.row_bytes, driver.layout.header_bytes
    assert [write.expected_bytes for write in second] == [header + 2 * size, header + size, 0]
    for writes in (first, second):
        assert not driver.store.apply(writes)
        driver.slab.committed([0])
    driver.commit((1, 1), (2, 1), (3, 1))


def test_entities_of_both_batches_stay_until_the_second_is_committed(driver: Driver) -> None:
    for n in (1, 2):
        driver.store.apply(driver.fold((n, 0), (3, 0))[0])
    driver.slab.committed([0])
    driver.slab.max_bytes = 0
    driver.slab.evict()
    assert (driver.slab.find(0, ["u:1", "u:2", "u:3"]) >= 0).tolist() == [False, True, True]
    driver.slab.committed([0])
    driver.slab.evict()
    assert (driver.slab.find(0, ["u:1", "u:2", "u:3"]) >= 0).tolist() == [False, False, False]


def test_where_the_first_batch_is_refused_both_are_forgotten_and_read_again(driver: Driver) -> None:
    driver.commit((1, 0), (2, 0), (3, 0))
    held = {key: list(happened) for key, happened in driver.happened.items()}
    driver.fold((1, 1), (2, 1))
    first = driver.slab.pending
    driver.fold((2, 2), (3, 2))
    second = driver.slab.pending
    driver.slab.committed([-1], second)
    driver.slab.committed([-1], first)
    assert (driver.slab.find(0, ["u:1", "u:2", "u:3"]) < 0).all()
    assert driver.slab.entities == 0
    driver.happened = held
    driver.commit((1, 1), (2, 1), (2, 2), (3, 2))


def test_an_entity_that_is_not_here_has_no_slot(driver: Driver) -> None:
    driver.commit((1, 0))
    assert (driver.slab.find(0, ["u:3", "u:1", "u:2", "u:1"]) < 0).tolist() == [True, False, True, False]


def test_the_least_recently_used_entities_go_first_and_none_with_something_to_commit() -> None:
    driver = Driver(LAYOUTS["two sliding windows"])
    order = [37 * n % 98 for n in range(98)]
    driver.commit(*((n, 0) for n in range(100)))
    for n in order:
        driver.commit((n, 1))
    (writes,) = driver.fold((98, 1), (99, 1))
    driver.slab.max_bytes = driver.slab.used_bytes // 2
    gone = driver.slab.evict()
    assert 50 <= gone < 70
    assert driver.slab.used_bytes <= driver.slab.max_bytes
    absent = np.flatnonzero(driver.slab.find(0, [f"u:{n}" for n in range(100)]) < 0)
    assert set(absent.tolist()) == set(order[:gone])
    driver.slab.max_bytes = 1
    driver.slab.evict()
    assert (driver.slab.find(0, ["u:61", "u:98", "u:99"]) < 0).tolist() == [True, False, False]
    driver.store.apply(writes)
    driver.slab.committed([0])
    driver.slab.evict()
    assert driver.slab.entities == 0


def test_nothing_is_evicted_within_the_bound(driver: Driver) -> None:
    driver.commit((1, 0))
    assert driver.slab.evict() == 0
    assert driver.slab.entities == 1


def test_entities_that_grow_leave_the_table_within_the_bound_whatever_sizes_were_left_behind() -> None:
    """Each round fills the bound with entities of twice as many rows as before; the first of each go on from the round before it."""
    driver = Driver(LAYOUTS["an exact window"], max_bytes := 1 << 20)
    entities, at = max_bytes // (8 * driver.layout.width * 4), 0
    for size in (4, 8, 16, 32, 64):
        for first in range(0, entities * 4 // size, 16):
            (writes,) = driver.fold(*((n, (at := at + 1) / 1_000_000) for n in range(first, first + 16) for _ in range(size)))
            assert not driver.store.apply(writes)
            driver.slab.committed([0])
            driver.slab.evict()
            assert driver.slab.used_bytes <= max_bytes
        assert driver.slab.arena.table.nbytes <= 3 * max_bytes // 2, size
    blobs = [driver.store.values[driver.slab.key(0, f"u:{n}")] for n in range(16)]
    for n, blob in enumerate(blobs):
        assert rows_of(driver.layout, blob) == replay(driver.layout, blob, driver.happened[driver.slab.key(0, f"u:{n}")])


def test_an_evicted_entity_goes_on_from_what_the_store_holds(driver: Driver) -> None:
    driver.commit((1, 0), (1, 1))
    driver.slab.max_bytes = 1
    driver.slab.evict()
    (write,) = driver.commit((1, 1))
    assert [patch.position for patch in write.patches] == [driver.layout.header_bytes + driver.layout.row_bytes]


def test_a_slab_that_is_full_of_entities_names_the_view_and_what_to_do(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "SLOTS", 100)
    driver.commit(*((n, 0) for n in range(100)))
    with pytest.raises(StateError, match="view paid@.* from pay .* at most 100 entities.*more partitions and workers"):
        driver.fold((100, 0))
    driver.commit((7, 1))


def test_ids_that_are_numbers_are_whole_in_the_key() -> None:
    driver = Driver(LAYOUTS["tumbling, keyed by a number"])
    (write,) = driver.commit((7, 0))
    assert b":shop:7:" in write.key


def test_an_entity_that_another_partition_has_is_not_taken_in_and_its_neighbours_are() -> None:
    driver = Driver(LAYOUTS["three tiles, one key over all partitions"])
    driver.commit((1, 0), partition=0)
    slab, blob = driver.slab, driver.store.values[driver.slab.key(0, "u:1")]
    assert slab.load(1, ["u:0", "u:1", "u:2"], [None, blob, None]) == {"u:1": 0}
    assert (slab.find(1, ["u:0", "u:1", "u:2"]) < 0).tolist() == [False, True, False]


def test_rows_of_another_partition_under_a_key_that_names_one_are_refused_loudly() -> None:
    driver = Driver(LAYOUTS["tumbling, keyed by a number"])
    (write,) = driver.commit((7, 0), partition=0)
    with pytest.raises(StateError, match="rows of another partition.*rebuild"):
        driver.slab.load(1, [7], [driver.store.values[write.key]])


def test_a_damaged_value_is_refused_loudly(driver: Driver) -> None:
    driver.commit((0, 0))
    (write,) = driver.commit((1, 0))
    driver.slab.drop(0)
    driver.store.values[write.key] = driver.store.values[write.key][:-1]
    with pytest.raises(StateError, match="bytes.*Run `featureflow rebuild paid`") as refused:
        driver.fold((0, 0), (1, 0))
    assert f"1', key {write.key.decode()}: " in str(refused.value) or f"entity 1, key {write.key.decode()}: " in str(refused.value)
