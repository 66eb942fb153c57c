"""What an entity takes in the store against its events, as the documents say: all keys of it, as a worker leaves them."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from unit.ingest.slabs_rig import Ingest, check, one_source
from unit.kernel.worlds import NOON, aggregation, sliding

from featureflow.define.spec import Aggregation, Call, Column, Literal
from oracle import Record

DOCUMENT = Path(__file__).parents[3] / "docs" / "definitions.md"
DAY = 86_400
KIND, Y = Column("kind"), Column("y")
GREAT = Call("gt", (Column("x"), Literal(20.0)))


def sketched(op: str, error: float) -> list[Aggregation]:
    return [replace(aggregation(op, [sliding(DAY)], size=3), error=error)]


def five() -> list[Aggregation]:
    return [aggregation(op, [sliding(3_600), sliding(DAY), sliding(7 * DAY)]) for op in ("count", "sum", "mean", "min", "max")]


def thirty() -> list[Aggregation]:
    windows = [sliding(s) for s in (60, 600, 3_600, 6 * 3_600, DAY, 7 * DAY)]
    ops = ("count", "sum", "mean", "min", "max", "variance", "rate", "first", "last", "time_since_last")
    return [
        aggregation(op, windows, value=value, where=where, name=f"{op}_{i}")
        for i, (value, where) in enumerate(((Column("x"), None), (Y, GREAT), (Column("x"), Call("eq", (KIND, Literal("card"))))))
        for op in ops
    ]


VIEWS: dict[str, list[Aggregation]] = {
    "5 aggregations of one number over 1 h, 1 d and 7 d": five(),
    "30 aggregations of two numbers and a string over 6 windows": thirty(),
    "`last_n(kind, 5, width=16)` and `last(x)`": [
        aggregation("last_n", [sliding(DAY)], value=KIND, size=5, width=16), aggregation("last", [sliding(DAY)]),
    ],
    "`approx_distinct`, `approx_quantile` and `top_k` over 1 d, and the 5": [
        *five(), *sketched("approx_distinct", 0.02), *sketched("approx_quantile", 0.01), *sketched("top_k", 0.02),
    ],
} | {
    f"`{op}` over 1 d, `error={error:g}`": sketched(op, error)
    for op, errors in (
        ("approx_distinct", (0.1, 0.02, 0.005)), ("approx_quantile", (0.1, 0.01, 0.001)), ("top_k", (0.1, 0.02, 0.005)),
    )
    for error in errors
}  # fmt: skip


def records_of(n: int) -> list[Record]:
    """Payments of one user spread over a day: amounts in cents, a measured number, a kind."""
    rng = np.random.default_rng(n)
    times = np.sort(NOON - rng.integers(0, DAY * 1_000, n) * 1_000)
    amounts, measured, kinds = np.round(rng.lognormal(3, 1, n), 2), rng.random(n), rng.choice(["card", "cash", "transfer"], n)
    return [
        Record("click", 0, 1_000_000 + 997 * i, int(t), int(t), {"at": 0.0, "user": "u1", "x": float(x), "y": float(y), "kind": str(kind)})
        for i, (t, x, y, kind) in enumerate(zip(times, amounts, measured, kinds, strict=True))
    ]


def stored(declared: Sequence[Aggregation], n: int) -> tuple[int, Ingest]:
    """Bytes of all state values of the one entity."""
    ingest = one_source(*declared)
    ingest.luck = random.Random(0)
    ingest.luck.random = lambda: 1.0                               # type: ignore[method-assign]  # nothing is refused
    records = records_of(n)
    ingest.world = type(ingest.world)(ingest.world.view, ingest.world.sources, tuple(records))
    at_once = max(1, n // 50)
    for start in range(0, n, at_once):
        ingest.fold(records[start : start + at_once])
    return sum(map(len, ingest.store.values())), ingest


@pytest.mark.parametrize("name", VIEWS)
def test_bytes_of_an_entity_against_events_are_the_documents(name: str) -> None:
    rows = re.findall(rf"^\| {re.escape(name)} \| (.*) \|$", DOCUMENT.read_text(), re.MULTILINE)
    told = [int(number.replace(",", "")) for row in rows for number in row.split(" | ")]
    found = []
    for n in (1, 10, 100, 1_000):
        size, ingest = stored(VIEWS[name], n)
        found.append(size)
        if n == 10:
            assert size <= 400
            check(ingest)
    assert found == told, f"| {name} | {' | '.join(f'{size:,}' for size in found)} |"
