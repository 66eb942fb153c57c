"""What an entity takes in the store against its events, as the documents say: all keys of it, as a worker leaves them."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray
from unit.ingest.slabs_rig import Ingest, check, one_source
from unit.kernel.worlds import NOON, aggregation, sliding

from featureflow.define.spec import Aggregation, Call, Column, Literal
from oracle import Record

DOCUMENT = Path(__file__).parents[3] / "docs" / "definitions.md"
DAY, DAYS = 86_400, 20
KIND, Y = Column("kind"), Column("y")
GREAT = Call("gt", (Column("x"), Literal(20.0)))


def sketched(op: str, error: float) -> list[Aggregation]:
    return [replace(aggregation(op, [sliding(DAY)], size=3), error=error)]


def five(*windows_s: int) -> list[Aggregation]:
    return [aggregation(op, [sliding(s) for s in windows_s]) for op in ("count", "sum", "mean", "min", "max")]


def thirty() -> list[Aggregation]:
    windows = [sliding(s) for s in (60, 600, 3_600, 6 * 3_600, DAY, 7 * DAY)]
    ops = ("count", "sum", "mean", "min", "max", "variance", "rate", "first", "last", "time_since_last")
    return [
        aggregation(op, windows, value=value, where=where, name=f"{op}_{i}")
        for i, (value, where) in enumerate(((Column("x"), None), (Y, GREAT), (Column("x"), Call("eq", (KIND, Literal("card"))))))
        for op in ops
    ]


VIEWS: dict[str, list[Aggregation]] = {
    "5 aggregations of one number over 1 h and 1 d": five(3_600, DAY),
    "5 aggregations of one number over 1 h, 1 d and 7 d": five(3_600, DAY, 7 * DAY),
    "30 aggregations of two numbers and a string over 6 windows": thirty(),
    "`last_n(kind, 5, width=16)` and `last(x)`": [
        aggregation("last_n", [sliding(DAY)], value=KIND, size=5, width=16), aggregation("last", [sliding(DAY)]),
    ],
    "`approx_distinct`, `approx_quantile` and `top_k` over 1 d, and the 5": [
        *five(3_600, DAY, 7 * DAY), *sketched("approx_distinct", 0.02), *sketched("approx_quantile", 0.01), *sketched("top_k", 0.02),
    ],
} | {
    f"`{op}` over 1 d, `error={error:g}`": sketched(op, error)
    for op, errors in (
        ("approx_distinct", (0.1, 0.02, 0.005)), ("approx_quantile", (0.1, 0.01, 0.001)), ("top_k", (0.1, 0.02, 0.005)),
    )
    for error in errors
}  # fmt: skip


def in_a_day(n: int) -> list[Record]:
    """Spread over a day at random."""
    rng = np.random.default_rng(n)
    return payments(rng, rng.integers(0, DAY * 1_000, n) * 1_000)


def ten_a_day(*, evenly: bool) -> list[Record]:
    """For 20 days."""
    rng, n = np.random.default_rng(20), 10 * DAYS
    return payments(rng, np.arange(n) * (DAY * 100_000) if evenly else rng.integers(0, DAYS * DAY * 1_000, n) * 1_000)


def payments(rng: np.random.Generator, ago_us: NDArray[np.int64]) -> list[Record]:
    """Payments of one user: amounts in cents, a measured number, a kind."""
    n, times = len(ago_us), np.sort(NOON - ago_us)
    amounts, measured, kinds = np.round(rng.lognormal(3, 1, n), 2), rng.random(n), rng.choice(["card", "cash", "transfer"], n)
    return [
        Record("click", 0, 1_000_000 + 997 * i, int(t), int(t), {"at": 0.0, "user": "u1", "x": float(x), "y": float(y), "kind": str(kind)})
        for i, (t, x, y, kind) in enumerate(zip(times, amounts, measured, kinds, strict=True))
    ]


def stored(declared: Sequence[Aggregation], records: Sequence[Record], at_once: int = 1) -> tuple[int, Ingest]:
    """Bytes of all state values of the one entity."""
    ingest = one_source(*declared)
    ingest.luck = random.Random(0)
    ingest.luck.random = lambda: 1.0                               # type: ignore[method-assign]  # nothing is refused
    ingest.world = type(ingest.world)(ingest.world.view, ingest.world.sources, tuple(records))
    for start in range(0, len(records), at_once):
        ingest.fold(records[start : start + at_once])
    return sum(map(len, ingest.store.values())), ingest


@pytest.mark.parametrize("name", VIEWS)
def test_bytes_of_an_entity_against_events_are_the_documents(name: str) -> None:
    (row,) = re.findall(rf"^\| {re.escape(name)} \| (.*) \|$", DOCUMENT.read_text(), re.MULTILINE)
    told, found = [int(number.replace(",", "")) for number in row.split(" | ")], []
    for n in (1, 10, 100, 1_000):
        size, ingest = stored(VIEWS[name], in_a_day(n), max(1, n // 50))
        found.append(size)
        if n == 10:
            assert size <= 400
            check(ingest)
    for evenly in (False, True):
        size, ingest = stored(VIEWS[name], ten_a_day(evenly=evenly))
        found.append(size)
        check(ingest)
    assert found == told, f"| {name} | {' | '.join(f'{size:,}' for size in found)} |"
