"""What a sketch takes in the store is what the documents say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from unit.kernel.worlds import NOON, SECOND, aggregation, sliding, source, view

from featureflow.kernel import rollup
from featureflow.kernel.columns import Layout
from featureflow.kernel.events import Events
from featureflow.kernel.fold import lift_rows
from featureflow.kernel.state import encode

DOCUMENT = Path(__file__).parents[3] / "docs" / "definitions.md"
DAY = 86_400


def stored(op: str, error: float, values: np.ndarray, rng: np.random.Generator) -> int:
    """Bytes of the state value of one entity's cells, its events spread over a day and rolled up at its end."""
    clicks, n = source(), len(values)
    declared = replace(aggregation(op, [sliding(DAY)]), error=error)
    (layout,) = Layout.of(view([declared], [clicks]), clicks).cells
    times = np.sort(NOON - rng.integers(0, DAY * SECOND, n))
    rows, _ = lift_rows(layout, Events(0, np.arange(n), times, times, {"user": np.full(n, "u", object), "x": values}))
    horizon, frontiers = rollup.frontiers(layout, int(times.max()))
    return len(encode(layout, 0, horizon, frontiers, rollup.roll_up(layout, rows, horizon, frontiers)))


@pytest.mark.parametrize(("op", "error"), [("approx_distinct", 0.02), ("approx_quantile", 0.01), ("top_k", 0.02)])
def test_bytes_against_events_are_the_documents(op: str, error: float) -> None:
    (row,) = re.findall(rf"^\| `{op}\(.*?: bytes \| (.*) \|$", DOCUMENT.read_text(), re.MULTILINE)
    told = [int(number.replace(",", "")) for number in row.split(" | ")]
    found = []
    for n in (1, 10, 100, 1_000, 10_000):
        rng = np.random.default_rng(7)
        values = np.arange(n) * 1.37 if op == "approx_distinct" else np.round(rng.lognormal(3, 1, n), 1)
        if op == "top_k":
            values = np.minimum(rng.zipf(1.5, n), 2.0**40).astype(np.float64)
        found.append(stored(op, error, values, rng))
    assert found == told
    assert found[1] <= (1300 if op == "top_k" else 400)            # three cells for each event, of five numbers
