from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from featureflow import limits
from featureflow.clock import NO_TIME_US
from featureflow.define.spec import DEFAULT_PROJECT, Aggregation, Call, Column, Field, Literal, Source, View, Window
from featureflow.errors import StateError
from featureflow.ingest.slab import Slab
from featureflow.kernel import state
from featureflow.kernel.columns import Layout
from featureflow.kernel.events import Events
from featureflow.kernel.partial.base import LOWEST
from featureflow.kernel.partial.basic import Count, Max, Min, Sum
from featureflow.kernel.partial.newest import LastN
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


LIFETIME = Window(kind="lifetime", length_us=0, text="lifetime")


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
    """Whatever is folded, committed, refused, evicted and loaded again, the store says what a replay of the log says."""

    @initialize(name=st.sampled_from(sorted(LAYOUTS)))
    def begin(self, name: str) -> None:
        self.layout = LAYOUTS[name]
        self.store = Store(self.layout)
        self.slab = Slab(self.layout, KEYS, max_bytes=20_000)
        self.committed: dict[bytes, list[Happened]] = {}
        self.pending: dict[bytes, list[Happened]] = {}
        self.partition = 0
        self.now = [NOW_US, NOW_US]
        self.watermark = [NO_TIME_US, NO_TIME_US]
        self.offset = 0

    @rule(batch=st.lists(seen, min_size=1, max_size=30), step=st.sampled_from([0, 1, 1, 3, 20, 200]), spread=st.sampled_from([0, 1, 1]))
    def fold(self, batch: list[tuple[int, int, float | None]], step: int, spread: int) -> None:
        chosen = []
        for i, (n, jitter, amount) in enumerate(batch):
            self.now[self.partition] += step * SECOND_US if spread or i == 0 else 0
            chosen.append((n, self.now[self.partition] + jitter, amount))
        self.take(chosen)

    @rule(n=st.integers(0, 3), times=st.integers(10, 40), step=st.integers(1, 4), back=st.integers(0, 100))
    def fold_many_rows_of_one_entity(self, n: int, times: int, step: int, back: int) -> None:
        self.now[self.partition] += times * step * SECOND_US
        latest = self.now[self.partition] - back * SECOND_US
        self.take([(n, latest - i * step * SECOND_US, 1.0) for i in reversed(range(times))])

    def take(self, chosen: list[tuple[int, int, float | None]]) -> None:
        partition = self.partition
        if self.layout.keyed:
            chosen = [(2 * n + partition, t, amount) for n, t, amount in chosen]
        events = events_of(partition, self.offset, chosen)
        self.offset += len(chosen)
        self.watermark[partition] = max(self.watermark[partition], int(events.times_us.max()))
        ids = self.slab.ids(events)
        absent = self.slab.absent(partition, ids)
        self.slab.load(partition, absent, [self.store.values.get(self.slab.key(partition, i)) for i in absent])
        self.slab.fold(partition, events)
        for i, (entity_id, (_, t, amount)) in enumerate(zip(ids, chosen, strict=True)):
            key = self.slab.key(partition, entity_id)
            self.pending.setdefault(key, []).append((t, amount, partition, int(events.offsets[i])))

    @rule(expire=st.integers(0, 2))
    def commit(self, expire: int) -> None:
        writes = self.slab.writes(self.watermark[self.partition])
        patched = [write.key for write in writes if write.patches]
        for key in patched[:expire]:
            del self.store.values[key]
        gone = self.store.apply(writes)
        if gone:
            assert not self.store.apply(self.slab.whole(writes, gone))
        self.slab.committed(0)
        for key, happened in self.pending.items():
            self.committed.setdefault(key, []).extend(happened)
        self.pending.clear()

    @rule()
    def ask_twice(self) -> None:
        assert self.slab.writes(self.watermark[self.partition]) == self.slab.writes(self.watermark[self.partition])

    @rule(partition=st.integers(0, 1))
    def refused(self, partition: int) -> None:
        self.slab.drop(partition)
        if partition == self.partition:
            self.pending.clear()

    @rule()
    def evict(self) -> None:
        self.slab.evict()

    @precondition(lambda self: not self.pending)
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

    def fold(self, *seen: tuple[int, float], partition: int = 0) -> None:
        """(entity number, seconds after ``NOW_US``), each with amount 1."""
        events = events_of(partition, self.offset, [(n, NOW_US + int(t * SECOND_US), 1.0) for n, t in seen])
        self.offset += len(seen)
        absent = self.slab.absent(partition, self.slab.ids(events))
        self.slab.load(partition, absent, [self.store.values.get(self.slab.key(partition, i)) for i in absent])
        self.slab.fold(partition, events)
        self.watermark = max(self.watermark, int(events.times_us.max()))
        for entity_id, t, offset in zip(self.slab.ids(events), events.times_us.tolist(), events.offsets.tolist(), strict=True):
            self.happened.setdefault(self.slab.key(partition, entity_id), []).append((t, 1.0, partition, offset))

    def commit(self) -> list[StateWrite]:
        writes = self.slab.writes(self.watermark)
        assert not self.store.apply(writes)
        self.slab.committed(0)
        for write in (each := list(writes)):
            blob = self.store.values[write.key]
            assert rows_of(self.layout, blob) == replay(self.layout, blob, self.happened[write.key])
        return each


@pytest.fixture
def driver() -> Driver:
    return Driver(LAYOUTS["two sliding windows"])


def test_a_new_entity_is_written_whole_over_nothing(driver: Driver) -> None:
    driver.fold((1, 0), (1, 0.5), (1, 1))
    (write,) = driver.commit()
    assert (write.expected_bytes, write.header, write.patches) == (0, b"", ())
    assert write.whole is not None
    assert len(write.whole) == driver.layout.header_bytes + 2 * driver.layout.row_bytes


def test_only_the_rows_that_were_touched_are_patched_and_neighbours_share_a_patch(driver: Driver) -> None:
    driver.fold((1, 0), (1, 1), (1, 2), (2, 0))
    driver.commit()
    size, header = driver.layout.row_bytes, driver.layout.header_bytes
    driver.fold((1, 0), (1, 2), (1, 3), (1, 4))
    (write,) = driver.commit()
    assert write.expected_bytes == header + 3 * size
    assert [(patch.position, len(patch.data)) for patch in write.patches] == [(header, size), (header + 2 * size, 3 * size)]


def test_a_row_that_several_folds_touched_is_patched_once(driver: Driver) -> None:
    driver.fold((1, 0))
    driver.commit()
    driver.fold((1, 0), (1, 1))
    driver.fold((1, 0), (1, 1))
    (write,) = driver.commit()
    assert [len(patch.data) for patch in write.patches] == [2 * driver.layout.row_bytes]


def test_events_of_an_exact_window_are_rows_of_their_own_and_those_of_one_microsecond_share_one() -> None:
    driver = Driver(LAYOUTS["an exact window"])
    driver.fold((1, 0.25), (1, 0), (2, 0.5), (1, 0.000_001), (1, 0.25), (2, 0))
    sizes = {write.key: len(write.whole or b"") - driver.layout.header_bytes for write in driver.commit()}
    rows = [sizes[driver.slab.key(0, user)] / driver.layout.row_bytes for user in ("u:1", "u:2")]
    assert rows == [3, 2]


def test_nothing_folded_is_nothing_to_write(driver: Driver) -> None:
    assert driver.slab.writes(NOW_US) == Writes()
    driver.fold((1, 0))
    driver.commit()
    assert driver.slab.writes(NOW_US) == Writes()
    assert driver.slab.rows_touched == 0


def test_an_entity_is_rolled_up_when_half_its_rows_can_be_and_is_written_whole_over_its_old_length(driver: Driver) -> None:
    writes = []
    for t in range(0, 600, 2):
        driver.fold((1, t))
        (write,) = driver.commit()
        writes.append(write)
    whole = [write for write in writes[1:] if write.whole is not None]
    assert 2 <= len(whole) < 30
    assert all(write.expected_bytes > len(write.whole or b"") for write in whole)
    assert max(len(value) for value in driver.store.values.values()) < 250 * driver.layout.row_bytes


def test_one_commit_rolls_up_only_so_many_rows_and_leaves_the_rest_for_the_next(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ROLL_UP_ROWS", 50)
    driver.fold(*((n, t) for n in range(8) for t in range(20)))
    driver.commit()
    driver.fold(*((n, 1_000) for n in range(8)))
    assert sum(write.whole is not None for write in driver.commit()) == 2
    driver.fold(*((n, 1_000) for n in range(8)))
    assert sum(write.whole is not None for write in driver.commit()) == 2


def test_rows_that_can_no_longer_be_asked_for_leave_the_store(driver: Driver) -> None:
    driver.fold(*((1, t) for t in range(20)))
    driver.commit()
    driver.fold((1, 10_000))
    (write,) = driver.commit()
    assert write.whole is not None
    assert len(write.whole) == driver.layout.header_bytes + driver.layout.row_bytes


def test_an_entity_that_is_old_when_it_is_first_seen_lands_in_large_tiles() -> None:
    driver = Driver(layout_of(sliding(12), sliding(12_000)))
    driver.fold((1, 0), (1, 1), (1, 2), (2, 5_000))
    driver.commit()
    assert len(driver.store.values[driver.slab.key(0, "u:1")]) == driver.layout.header_bytes + driver.layout.row_bytes


def test_an_expired_key_is_written_whole_and_the_others_as_before(driver: Driver) -> None:
    driver.fold((1, 0), (2, 0), (3, 0))
    driver.commit()
    driver.fold((1, 1), (2, 1), (3, 1))
    writes = driver.slab.writes(driver.watermark)
    del driver.store.values[writes.keys[1]]
    gone = driver.store.apply(writes)
    assert gone == [1]
    rewritten = driver.slab.whole(writes, gone)
    before, again = list(writes), list(rewritten)
    assert (again[0], again[2]) == (before[0], before[2])
    assert again[1].expected_bytes == 0
    assert not driver.store.apply(rewritten)
    driver.slab.committed(0)
    driver.fold((2, 1))
    (write,) = driver.commit()
    assert write.patches


def test_state_lives_as_long_as_it_may_be_needed_after_any_write_of_it_and_is_seldom_renewed() -> None:
    """By the store's clock: a write renews a life from its ``renew_ms`` on, to its ``ttl_ms``."""
    driver = Driver(layout_of(sliding(10), sliding(120)))
    needed_ms, rng = driver.layout.ttl_ms, np.random.default_rng(0)
    now_ms, dies_ms, renewals = 1_000, 0, 0
    for _ in range(400):
        driver.fold((1, 0))
        (write,) = driver.slab.writes(driver.watermark)
        if write.whole is not None or now_ms >= write.renew_ms:
            dies_ms, renewals = now_ms + write.ttl_ms, renewals + 1
        assert needed_ms <= dies_ms - now_ms <= 1.2 * needed_ms
        driver.store.apply(Writes.of([write]))
        driver.slab.committed(now_ms)
        now_ms += int(rng.integers(0, needed_ms // 20))
    assert renewals < 120


def test_a_life_that_began_before_the_claim_is_renewed_by_the_first_write(driver: Driver) -> None:
    driver.fold((1, 0))
    driver.commit()
    driver.slab.drop(0)
    driver.fold((1, 1))
    (write,) = driver.slab.writes(driver.watermark)
    assert write.patches
    assert write.renew_ms == 0


def test_dropping_a_partition_forgets_what_was_folded_and_leaves_other_partitions(driver: Driver) -> None:
    driver.fold((1, 0), partition=0)
    driver.commit()
    driver.fold((1, 0), partition=1)
    driver.slab.drop(1)
    assert driver.slab.writes(driver.watermark) == Writes()
    assert driver.slab.absent(1, ["u:1"]) == ["u:1"]
    assert driver.slab.absent(0, ["u:1"]) == []


def test_two_partitions_are_never_folded_into_one_commit(driver: Driver) -> None:
    driver.fold((1, 0), partition=0)
    with pytest.raises(RuntimeError, match="partition 0 has folds to commit"):
        driver.fold((1, 0), partition=1)


def test_absent_names_each_entity_once_in_the_order_of_the_events(driver: Driver) -> None:
    driver.fold((1, 0))
    assert driver.slab.absent(0, ["u:3", "u:1", "u:2", "u:3"]) == ["u:3", "u:2"]


def test_the_least_recently_used_entities_go_first_and_none_with_something_to_commit() -> None:
    driver = Driver(LAYOUTS["two sliding windows"])
    order = [37 * n % 98 for n in range(98)]
    driver.fold(*((n, 0) for n in range(100)))
    driver.commit()
    for n in order:
        driver.fold((n, 1))
        driver.commit()
    driver.fold((98, 1), (99, 1))
    driver.slab.max_bytes = driver.slab.used_bytes // 2
    gone = driver.slab.evict()
    assert 50 <= gone < 70
    assert driver.slab.used_bytes <= driver.slab.max_bytes
    absent = driver.slab.absent(0, [f"u:{n}" for n in range(100)])
    assert set(absent) == {f"u:{n}" for n in order[:gone]}
    driver.slab.max_bytes = 1
    driver.slab.evict()
    assert driver.slab.absent(0, ["u:61", "u:98", "u:99"]) == ["u:61"]
    driver.commit()
    driver.slab.evict()
    assert driver.slab.entities == 0


def test_nothing_is_evicted_within_the_bound(driver: Driver) -> None:
    driver.fold((1, 0))
    driver.commit()
    assert driver.slab.evict() == 0
    assert driver.slab.entities == 1


def test_an_evicted_entity_goes_on_from_what_the_store_holds(driver: Driver) -> None:
    driver.fold((1, 0), (1, 1))
    driver.commit()
    driver.slab.max_bytes = 1
    driver.slab.evict()
    driver.fold((1, 1))
    (write,) = driver.commit()
    assert [patch.position for patch in write.patches] == [driver.layout.header_bytes + driver.layout.row_bytes]


def test_ids_that_are_numbers_are_whole_in_the_key() -> None:
    driver = Driver(LAYOUTS["tumbling, keyed by a number"])
    driver.fold((7, 0))
    (write,) = driver.commit()
    assert b":shop:7:" in write.key


def test_an_entity_that_another_partition_has_is_not_taken_in_and_its_neighbours_are() -> None:
    driver = Driver(LAYOUTS["three tiles, one key over all partitions"])
    driver.fold((1, 0), partition=0)
    driver.commit()
    slab, blob = driver.slab, driver.store.values[driver.slab.key(0, "u:1")]
    assert slab.load(1, ["u:0", "u:1", "u:2"], [None, blob, None]) == {"u:1": 0}
    assert slab.absent(1, ["u:0", "u:1", "u:2"]) == ["u:1"]


def test_rows_of_another_partition_under_a_key_that_names_one_are_refused_loudly() -> None:
    driver = Driver(LAYOUTS["tumbling, keyed by a number"])
    driver.fold((7, 0), partition=0)
    (write,) = driver.commit()
    with pytest.raises(StateError, match="rows of another partition.*rebuild"):
        driver.slab.load(1, [7], [driver.store.values[write.key]])


def test_a_damaged_value_is_refused_loudly(driver: Driver) -> None:
    driver.fold((1, 0))
    (write,) = driver.commit()
    driver.slab.drop(0)
    driver.store.values[write.key] = driver.store.values[write.key][:-1]
    with pytest.raises(StateError, match="bytes"):
        driver.fold((1, 0))
