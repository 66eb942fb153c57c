"""A slab over a store that is a dict, and what its rows should be by a replay of everything that it was given."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from trips import LIFETIME

from featureflow.clock import NO_TIME_US
from featureflow.define.spec import DEFAULT_PROJECT, Aggregation, Call, Column, Field, Literal, Source, View, Window
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
