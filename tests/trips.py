"""Two sources, six views over them and random events, for tests of history and training."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from featureflow.define.spec import (
    Aggregation,
    Call,
    Column,
    Entity,
    Expr,
    Field,
    Input,
    Literal,
    Model,
    Payload,
    Project,
    Request,
    Source,
    View,
    Window,
)
from featureflow.define.version import with_version
from featureflow.kernel.events import Events

MINUTE_US, HOUR_US = 60_000_000, 3_600_000_000
BEGIN_US = 1_700_000_000_000_000
LIFETIME = Window(kind="lifetime", length_us=0, text="lifetime")

SESSION = Window(kind="session", length_us=6 * HOUR_US, text="10m", gap_us=10 * MINUTE_US)
LONG_SESSION = Window(kind="session", length_us=24 * HOUR_US, text="40m", gap_us=40 * MINUTE_US)
EXACT = Window(kind="sliding", length_us=30 * MINUTE_US, text="30m", exact=True)
HOPPING = Window(kind="hopping", length_us=2 * HOUR_US, text="2h", hop_us=HOUR_US // 2, offset_us=MINUTE_US)

FIELDS = (
    Field(name="at", type="datetime"),
    Field(name="carrier", type="str", entity="carrier", max_bytes=64),
    Field(name="origin", type="int", entity="airport"),
    Field(name="aircraft", type="str", entity="aircraft", nullable=True, max_bytes=64),
    Field(name="delay", type="float", nullable=True),
    Field(name="diverted", type="bool"),
    Field(name="known", type="datetime", nullable=True),
    Field(name="note", type="str", max_bytes=2_000),
)


def source(name: str, *, disorder_us: int = 10 * MINUTE_US, future_us: int = MINUTE_US, keyed_by: str | None = None) -> Source:
    return Source(
        name=name, topic=f"{name}s", time_field="at", disorder_us=disorder_us, future_us=future_us, fields=FIELDS, keyed_by=keyed_by
    )


DEPARTURE, ARRIVAL = source("departure"), source("arrival")
SOURCES = {"departure": DEPARTURE, "arrival": ARRIVAL}


def window(text: str, kind: str = "sliding") -> Window:
    length = int(text[:-1]) * {"s": 1_000_000, "m": MINUTE_US, "h": HOUR_US, "d": 24 * HOUR_US}[text[-1]]
    return Window(kind="tumbling" if kind == "tumbling" else "sliding", length_us=length, text=text)


def aggregation(
    name: str, op: str, source: str, *windows: Window, where: Expr | None = None, size: int = 1, default: float | str | None = None,
    value: Expr | None = None, width: int = 0, by: Expr | None = None, entry: tuple[Payload, ...] = (),
) -> Aggregation:  # fmt: skip
    value = None if op in ("count", "time_since_last") else value or Column("delay")
    if op == "count" and default is None:
        default = 0.0
    return Aggregation(
        name=name, op=op, source=source, value=value, where=where, windows=windows, size=size, bare=op == "last_n", default=default,
        width=width, by=by, entry=entry, error=0.02 if op.startswith(("approx", "top_k")) else 0.0,
    )  # fmt: skip


def view(name: str, entity: str, key: str, *aggregations: Aggregation, ttl_us: int | None = None) -> View:
    keys = {a.source: key for a in aggregations}
    return with_version(View(name=name, entity=entity, join_key=key, keys=keys, aggregations=aggregations, ttl_us=ttl_us), SOURCES)


LATE = Call("gt", (Column("delay"), Literal(15.0)))
VIEWS = (
    view(
        "carrier_now", "carrier", "carrier",
        aggregation("n", "count", "departure", window("10m"), window("1h"), window("6h")),
        aggregation("mean", "mean", "departure", window("10m"), window("6h")),
        aggregation("late", "count", "arrival", window("1h"), window("2h", "tumbling"), where=LATE),
        aggregation("spread", "stddev", "arrival", window("6h")),
    ),
    view(
        "origin_now", "airport", "origin",
        aggregation("worst", "max", "departure", window("1h"), default=-1.0),
        aggregation("best", "min", "departure", window("1h")),
        aggregation("sum", "sum", "arrival", window("30m"), window("3h")),
        aggregation("noted", "last", "departure", window("6h"), value=Column("note"), width=200),  # some are longer
    ),
    view(
        "aircraft_now", "aircraft", "aircraft",
        aggregation("delays", "last_n", "arrival", LIFETIME, size=4),
        aggregation("ever", "mean", "arrival", LIFETIME),
        aggregation("flown", "last_n", "arrival", LIFETIME, size=3, value=Column("carrier"), width=16, where=LATE),
        aggregation("slowest", "max_by", "departure", window("6h"), value=Column("carrier"), width=16, by=Column("delay"), default="none"),
        aggregation("recent", "count", "departure", window("6h")),
        ttl_us=8 * HOUR_US,
    ),
    view(
        "carrier_visit", "carrier", "carrier",
        aggregation("n", "count", "departure", SESSION, window("1h")),
        aggregation("mean", "mean", "departure", SESSION, EXACT, HOPPING),
        aggregation("ago", "time_since_last", "arrival", window("6h")),
        aggregation("delays", "sum", "arrival", LONG_SESSION),
        msgspec.structs.replace(aggregation("fading", "decayed_mean", "departure", window("400m")), half_life_us=10 * MINUTE_US, bare=True),
    ),
    view("aircraft_ever", "aircraft", "aircraft", aggregation("total", "sum", "departure", LIFETIME)),
    view(
        "carrier_seen", "carrier", "carrier",
        aggregation("delays", "approx_distinct", "departure", window("1h"), window("6h"), LIFETIME),
        aggregation("late", "approx_distinct", "arrival", window("2h", "tumbling"), where=LATE),
        aggregation("usual", "top_k", "departure", window("6h"), LIFETIME, size=3),
        aggregation("aircraft", "top_k", "departure", window("6h"), value=Column("aircraft"), width=16, size=2),
        aggregation("aircraft_count", "top_k_count", "departure", window("6h"), value=Column("aircraft"), size=2,
                    entry=(Payload(Column("aircraft"), 16),)),
        ttl_us=8 * HOUR_US,
    ),
    view("carrier_last", "carrier", "carrier", aggregation("last", "last", "arrival", window("1h"), window("6h"))),
)

ASK = Request(name="ask", fields=(Field(name="hour", type="int"), Field(name="kind", type="str", nullable=True)))
MODEL = Model(
    name="late",
    deadline_us=20_000,
    drift=0.03,
    inputs=(
        Input(name="trend", expr=Call("sub", (Column("carrier_now:mean_10m"), Column("carrier_now:mean_6h"))), default=0.0),
        Input(name="worst", expr=Column("origin_now:worst_1h")),
        Input(name="delays", expr=Column("aircraft_now:delays"), size=4),
        Input(name="hour", expr=Column("ask:hour")),
        Input(
            name="charter",
            expr=Call("or", (
                Call("eq", (Column("ask:kind"), Literal("charter"))),
                Call("and", (
                    Call("eq", (Column("origin_now:noted_6h"), Literal(""))),
                    Call("ne", (Column("aircraft_now:slowest_6h"), Literal("AA"))),
                )),
            )),
        ),
    ),
)
PROJECT = Project(
    entities=(Entity(name="carrier", type="str"), Entity(name="airport", type="int"), Entity(name="aircraft", type="str")),
    sources=(DEPARTURE, ARRIVAL),
    views=VIEWS,
    requests=(ASK,),
    models=(MODEL,),
)
REFERENCES = tuple(feature.reference for v in VIEWS for feature in v.features)


def strings(values: list[str | None]) -> NDArray[np.object_]:
    column: NDArray[np.object_] = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def events(seed: int, partition: int, n: int = 400, *, hours: float = 24.0, append_time: bool = True) -> Events:
    """Events with gaps in the offsets, late ones, some from the future, nulls, and ids that are hard to escape."""
    random = np.random.default_rng([seed, partition])
    stamps = np.sort(random.integers(BEGIN_US, BEGIN_US + int(hours * HOUR_US), n))
    lateness = np.where(random.random(n) < 0.3, random.exponential(20 * MINUTE_US, n), random.exponential(5e6, n)).astype(np.int64)
    times = stamps - lateness
    very_late, future = random.random(n) < 0.02, random.random(n) < 0.02
    times[very_late] -= 10 * HOUR_US
    times[future] = stamps[future] + random.integers(0, 3 * MINUTE_US, int(future.sum()))
    delay = np.round(random.gamma(2, 12, n) - 10, 1)
    delay[random.random(n) < 0.1] = np.nan
    known = (stamps + random.exponential(2 * MINUTE_US, n)).astype(np.int64).astype(np.float64)
    known[random.random(n) < 0.05] = np.nan
    carriers = ["AA", "aa", "AA ", "ü:{}\n", "UA\0"]
    return Events(
        partition=partition,
        offsets=np.cumsum(random.integers(1, 4, n)) - 1,
        times_us=times,
        timestamps_us=stamps,
        columns={
            "at": times.astype(np.float64),
            "carrier": strings([carriers[i] for i in random.integers(0, len(carriers), n)]),
            "origin": random.integers(1, 4, n).astype(np.float64),
            "aircraft": strings([None if i == 0 else f"N{i}" for i in random.integers(0, 30, n)]),
            "delay": delay,
            "diverted": (random.random(n) < 0.1).astype(np.float64),
            "known": known,
            "note": strings(["" if i % 3 else "x" * int(i) + "\N{SNOWMAN}" for i in random.integers(0, 300, n)]),
        },
        append_time=append_time,
    )


def spine(seed: int, n: int = 200, *, hours: float = 24.0) -> Mapping[str, list[object]]:
    """Rows to ask for: known and unknown ids, absent ids, instants inside the events and around them."""
    random = np.random.default_rng([seed, 99])
    return {
        "at": [int(q) for q in random.integers(BEGIN_US - HOUR_US, BEGIN_US + int((hours + 8) * HOUR_US), n)],
        "carrier": [["AA", "aa", "AA ", "ü:{}\n", "UA\0", "nobody"][i] for i in random.integers(0, 6, n)],
        "origin": [int(i) for i in random.integers(1, 6, n)],
        "aircraft": [None if i == 0 else f"N{i}" for i in random.integers(0, 33, n)],
        "hour": [int(i) for i in random.integers(0, 24, n)],
        "kind": [[None, "charter", "line"][i] for i in random.integers(0, 3, n)],
        "label": [float(i) for i in random.integers(0, 2, n)],
    }
