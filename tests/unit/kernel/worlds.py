"""Random worlds: sources, a view and their records, for the kernel and the oracle alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from hypothesis import strategies as st
from msgspec.structs import replace
from trips import LIFETIME

from featureflow.clock import NO_TIME_US
from featureflow.define.spec import (
    Aggregation,
    Call,
    Column,
    Expr,
    Field,
    Literal,
    Payload,
    Source,
    View,
    Window,
)
from featureflow.define.version import with_version
from featureflow.kernel.aggregation.table import AGGREGATIONS
from featureflow.kernel.events import Events
from featureflow.kernel.finalize import Status, Values, ViewKernel
from featureflow.kernel.partial.sketch import Sketch
from oracle import Answer, Record

SECOND = 1_000_000
NOON = 1_700_000_000 * SECOND // (86_400 * SECOND) * 86_400 * SECOND + 43_200 * SECOND
X, Y, KIND, V = Column("x"), Column("y"), Column("kind"), Column("v")
SKETCHED = tuple(op for op, kind in AGGREGATIONS.items() if any(issubclass(partial, Sketch) for partial in kind.needs))
EXACT = tuple(op for op in AGGREGATIONS if op not in SKETCHED)
DECAYED = ("decayed_sum", "decayed_mean", "decayed_count")
OF_EVENTS = ("count", "rate", "time_since_last", "decayed_count")              # they have no value
KEPT = ("first", "last", "last_n", "max_by", "min_by", "top_k", "top_k_count")       # these may keep strings


def sliding(seconds: int) -> Window:
    return Window(kind="sliding", length_us=seconds * SECOND, text=f"{seconds}s")


def tumbling(seconds: int, offset: int = 0) -> Window:
    return Window(kind="tumbling", length_us=seconds * SECOND, text=f"{seconds}s", offset_us=offset * SECOND)


def hopping(seconds: int, every: int, offset: int = 0) -> Window:
    return Window(
        kind="hopping", length_us=seconds * SECOND, text=f"{seconds}s", hop_us=every * SECOND, offset_us=offset * SECOND
    )


def session(gap: int, longest: int = 86_400) -> Window:
    return Window(kind="session", length_us=longest * SECOND, text=f"{gap}s", gap_us=gap * SECOND)


def exact(window: Window) -> Window:
    return msgspec.structs.replace(window, exact=True)


def source(name: str = "click", *, disorder_s: int = 60, future_s: int = 30, keyed: bool = True) -> Source:
    return Source(
        name=name, topic=name, time_field="at", disorder_us=disorder_s * SECOND, future_us=future_s * SECOND,
        keyed_by="user" if keyed else None,
        fields=(
            Field(name="at", type="datetime"),
            Field(name="user", type="str", entity="user", nullable=True),
            Field(name="x", type="float"),
            Field(name="y", type="float", nullable=True),
            Field(name="kind", type="str", nullable=True),
            Field(name="v", type="vector", size=3, nullable=True),
        ),
    )  # fmt: skip


def aggregation(
    op: str, windows: Sequence[Window], *, value: Expr | None = X, where: Expr | None = None, size: int = 1,
    default: float | str | None = None, source: str = "click", name: str = "", per_s: int = 60,
    width: int = 0, by: Expr | None = None, entry: Sequence[Payload] = (), half_life_s: int = 3600,
    vector: int = 0,
) -> Aggregation:  # fmt: skip
    if op in DECAYED:
        windows = (sliding(40 * half_life_s),)
    return Aggregation(
        name=name or op, op=op, source=source, value=None if op in OF_EVENTS else value, where=where,
        windows=tuple(window for window in windows if _may(op, window)) or (sliding(600),),
        size=size if op in ("last_n", "top_k", "top_k_count") else 1, default=default, per_us=per_s * SECOND if op == "rate" else 0,
        width=0 if op == "top_k_count" else width,
        entry=(Payload(value, width),) if op == "top_k_count" and value and width else tuple(entry),
        by=by or (Y if op in ("max_by", "min_by") else None),
        half_life_us=half_life_s * SECOND if op in DECAYED else 0, bare=op in DECAYED,
        error=0.02 if op in SKETCHED else 0.0, q=0.9 if op == "approx_quantile" else -1.0, vector=vector,
    )  # fmt: skip


def _may(op: str, window: Window) -> bool:
    """Whether a definition may say so."""
    if op in SKETCHED:
        return window.kind != "session" and not window.exact
    return op != "rate" or window.kind not in ("session", "lifetime")


def view(aggregations: Sequence[Aggregation], sources: Sequence[Source], *, ttl_s: int | None = None) -> View:
    declared = View(
        name="user_now", entity="user", join_key="user", keys={s.name: "user" for s in sources},
        aggregations=tuple(aggregations), ttl_us=None if ttl_s is None else ttl_s * SECOND,
    )  # fmt: skip
    return with_version(declared, {s.name: s for s in sources})


@dataclass(frozen=True)
class World:
    view: View
    sources: dict[str, Source]
    records: tuple[Record, ...]            # in the order they happened; offsets rise within each partition

    @property
    def kernel(self) -> ViewKernel:
        return ViewKernel(self.view, self.sources)

    @property
    def now(self) -> int:
        return max((r.timestamp_us for r in self.records), default=NOON)


# -- values that break naive arithmetic --------------------------------------------------------------------------------

ORDINARY = st.floats(-1e6, 1e6) | st.integers(-1000, 1000).map(float) | st.integers(-100_000, 100_000).map(lambda c: c / 100)
NASTY = st.one_of(
    ORDINARY,
    st.sampled_from([1e17, -1e17, 2.0**62, -(2.0**62), math.nextafter(2.0**63, 0), -math.nextafter(2.0**63, 0)]),
    st.floats(-9e18, 9e18),
    st.tuples(st.floats(-12, 18), st.sampled_from([1, -1])).map(lambda p: p[1] * 10 ** p[0]),
    st.integers(-2, 2).map(lambda s: 1.76e9 + s),               # epoch seconds: no spread, great size
    st.sampled_from([5e-324, -5e-324, 2.0**-1022, 2.0**-56, 2.0**-57, 3 * 2.0**-57, -(2.0**-57)]),
)

KINDS = st.sampled_from([
    "a", "b", "", "ab\0", "\0", "ünd", "eight by", "nine byte", "twelve bytes", "thirteen byte", "\U0001f600" * 3, None,
])  # fmt: skip
CONDITIONS = st.sampled_from([
    None,
    Call("gt", (X, Literal(0.0))),
    Call("not", (Call("is_null", (Y,)),)),
    Call("and", (Call("eq", (Column("kind"), Literal("a"))), Call("le", (X, Literal(1e5))))),
    Call("ne", (Column("kind"), Literal("a"))),
])
EXPRESSIONS = st.sampled_from([X, Y, Call("sub", (X, Y)), Call("div", (X, Y)), Call("mul", (X, X))])
WINDOWS = st.sampled_from([
    sliding(7), sliding(125), sliding(120), sliding(600), sliding(3600), sliding(86_400), sliding(30 * 86_400),
    tumbling(10), tumbling(90), tumbling(3600), tumbling(86_400), tumbling(86_400, 21_600), tumbling(600, 7),
    hopping(600, 60), hopping(90, 30, 20), hopping(86_400, 3600, 900), hopping(3600, 3600), LIFETIME,
    exact(sliding(7)), exact(sliding(600)), exact(sliding(86_400)), exact(tumbling(3600)), exact(hopping(600, 60, 20)),
    session(7, 120), session(1800), session(1, 10), session(5000, 20_000), exact(session(60, 3600)),
])  # fmt: skip


@st.composite
def views(
    draw: st.DrawFn, sources: Sequence[Source], ops: Sequence[str] = EXACT, windows: st.SearchStrategy[Window] = WINDOWS
) -> View:
    """One to five aggregations of these kinds, over one to three windows each; some of strings, some of several values."""
    declared = []
    for i in range(draw(st.integers(1, 5))):
        op = draw(st.sampled_from(sorted(ops)))
        width = draw(st.sampled_from([0, 3, 8, 12])) if op in KEPT else 0
        vector = 3 if op in ("first", "last", "max_by", "min_by") and not width and draw(st.booleans()) else 0
        one = aggregation(
            op,
            draw(st.lists(windows, min_size=1, max_size=3, unique=True)),
            value=KIND if width else V if vector else draw(EXPRESSIONS),
            where=draw(CONDITIONS),
            size=draw(st.integers(1, 4)),
            default=draw(
                st.sampled_from([None] if vector or op.startswith("top_k") else [None, "none"] if width else [None, 0.0, -1.0])
            ),
            source=draw(st.sampled_from(sources)).name,
            name=f"f{i}",
            width=width,
            vector=vector,
            by=draw(EXPRESSIONS) if op in ("max_by", "min_by") else None,
            half_life_s=draw(st.sampled_from([1, 50, 3600, 86_400])),
        )
        several = op == "last_n" and draw(st.booleans())
        entry = (Payload(Y), Payload(KIND, 12), Payload(X)) if several else ()
        declared += [
            replace(one, value=p.value, width=p.width, entry=entry, default=None, name=f"f{i}_{k}") for k, p in enumerate(entry)
        ] or [one]
    used = {a.source for a in declared}
    ttl = draw(st.sampled_from([None, 3600, 86_400]))
    return view(declared, [s for s in sources if s.name in used], ttl_s=ttl)


@st.composite
def worlds(
    draw: st.DrawFn,
    *,
    values: st.SearchStrategy[float] = NASTY,
    most: int = 60,
    ops: Sequence[str] = EXACT,
    windows: st.SearchStrategy[Window] = WINDOWS,
) -> World:
    """Records of two sources over a few hours, days or weeks: late ones, ones from the future, null ids."""
    sources = [
        source("click", disorder_s=draw(st.sampled_from([0, 60, 300])), future_s=draw(st.sampled_from([0, 30])), keyed=draw(st.booleans())),
        source("order", disorder_s=60, future_s=30, keyed=False),
    ]
    declared = draw(views(sources, ops, windows))
    by_name = {s.name: s for s in sources if s.name in declared.keys}
    append_time = draw(st.booleans())
    now, offsets = NOON, dict.fromkeys(((s, p) for s in by_name for p in range(2)), 0)
    records = []
    for _ in range(draw(st.integers(0, most) | st.integers(most // 2, most))):
        now += draw(st.sampled_from([0, 1, 999_999, SECOND, 3 * SECOND, 7 * SECOND, 61 * SECOND, 1700 * SECOND, 9000 * SECOND]))
        name = draw(st.sampled_from(sorted(by_name)))
        user = draw(st.sampled_from(["u1", "u1", "u1", "u2", None]))
        partition = 0 if by_name[name].keyed_by and user != "u2" else draw(st.integers(0, 1)) if not by_name[name].keyed_by else 1
        ago = draw(st.sampled_from([0, 0, 0, 0, 1, SECOND, 59 * SECOND, 400 * SECOND, 90_000 * SECOND, -SECOND, -29 * SECOND, -10**9]))
        offsets[name, partition] += draw(st.sampled_from([1, 1, 1, 3]))
        fields = {
            "at": float(now - ago), "user": user, "x": draw(values), "y": draw(values | st.none()),
            "kind": draw(st.sampled_from(["a", "b", None]) | KINDS),
        }  # fmt: skip
        x, y = fields["x"], fields["y"]
        fields["v"] = None if y is None else [y + 0.0, x + 0.0, 0.0 - x]
        records.append(Record(name, partition, offsets[name, partition], now - ago, now, fields, append_time))
    return World(declared, by_name, tuple(records))


# -- between the two forms ---------------------------------------------------------------------------------------------

def events_of(records: Sequence[Record], partition: int) -> Events:
    """Records of one partition of one source as a batch."""
    fields = ("at", "user", "x", "y", "kind")
    columns = {
        name: np.array([r.fields[name] for r in records], object)
        if name in ("user", "kind")
        else np.array([math.nan if r.fields[name] is None else r.fields[name] for r in records], np.float64)
        for name in fields
    }
    vectors = [r.fields.get("v") or [math.nan] * 3 for r in records]
    columns["v"] = np.array(vectors, np.float64).reshape(-1, 3)
    return Events(
        partition,
        np.array([r.offset for r in records], np.int64),
        np.array([r.time_us for r in records], np.int64),
        np.array([r.timestamp_us for r in records], np.int64),
        columns,
        records[0].append_time if records else True,
    )


def partitions_of(world: World, records: Sequence[Record] | None = None) -> dict[str, list[Events]]:
    """Source -> one batch per partition."""
    found: dict[tuple[str, int], list[Record]] = {}
    for record in world.records if records is None else records:
        found.setdefault((record.source, record.partition), []).append(record)
    return {name: [events_of(part, p) for (s, p), part in sorted(found.items()) if s == name] for name in world.sources}


def answers_of(world: World, values: Values, row: int) -> list[Answer]:
    """One row of the kernel's values, in the oracle's form."""
    found = []
    for i, (feature, at) in enumerate(zip(world.view.features, world.kernel.columns, strict=True)):
        time = int(values.event_times_us[row, i])
        found.append(
            Answer(
                tuple((values.texts[i][row] if feature.is_text else values.values[row, at:at + feature.size]).tolist()),
                Status(values.statuses[row, i]).letter,
                None if time == NO_TIME_US else time,
            )
        )
    return found


def same(got: Sequence[Answer], expected: Sequence[Answer]) -> bool:
    """Equal to the last bit, but for what has a stated error: then within it. NaN equals NaN."""
    near = [
        Answer(g.values, e.status, e.event_time_us) if e.error and abs(g.values[0] - e.values[0]) <= e.error else e
        for g, e in zip(got, expected, strict=True)
    ]
    return bits(got) == bits(near)


def bits(answers: Sequence[Answer]) -> list[tuple[tuple[str, ...], str, int | None]]:
    return [(tuple(v.hex() if isinstance(v, float) else repr(v) for v in a.values), a.status, a.event_time_us) for a in answers]


def applied_of(records: Sequence[Record]) -> Mapping[str, Mapping[int, int]]:
    """Offsets that make all of these records visible."""
    applied: dict[str, dict[int, int]] = {}
    for r in records:
        parts = applied.setdefault(r.source, {})
        parts[r.partition] = max(parts.get(r.partition, 0), r.offset + 1)
    return applied
