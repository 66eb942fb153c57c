"""Powers of two to the last bits, and values that fade by them."""

from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay import recompute
from unit.kernel.worlds import NOON, SECOND, World, aggregation, applied_of, partitions_of, source, view

from featureflow.kernel.columns import Layout
from featureflow.kernel.decay import TABLE, decayed, power_of_two
from featureflow.kernel.finalize import Values
from featureflow.kernel.fold import lift, merge
from featureflow.kernel.partial.decayed import Decayed
from oracle import Record

CLICKS = source(keyed=False, disorder_s=0)
HALF_LIVES = st.sampled_from([1, 7, 60, 3600, 86_400, 864_000]).map(lambda s: s * SECOND)


def power(over: int, under: int) -> Fraction:
    with localcontext() as context:
        context.prec = 60
        return Fraction(Decimal(2) ** (Decimal(over) / Decimal(under)))


@given(st.integers(-45 * 864_000 * SECOND, 45 * 864_000 * SECOND), HALF_LIVES)
@settings(max_examples=2000, deadline=None)
def test_a_power_of_two_is_within_2_to_the_minus_51(over: int, under: int) -> None:
    over = over % (90 * under) - 45 * under
    exact = power(over, under)
    assert abs(Fraction(float(power_of_two(np.array([over]), under)[0])) - exact) <= exact / 2**51


def test_whole_exponents_and_the_table_are_rounded_once() -> None:
    assert power_of_two(np.arange(-45, 46) * 7, 7).tolist() == [2.0**k for k in range(-45, 46)]
    for i, value in enumerate(TABLE.tolist()):
        exact = power(i, 64)
        assert abs(Fraction(value) - exact) <= Fraction(float(np.spacing(value))) / 2


@given(st.lists(st.integers(-40 * 3600 * SECOND, 4 * 3600 * SECOND), min_size=1, max_size=40))
def test_a_power_is_the_same_wherever_in_an_array_it_stands(overs: list[int]) -> None:
    together = power_of_two(np.array(overs), 3600 * SECOND)
    alone = np.concatenate([power_of_two(np.array([over]), 3600 * SECOND) for over in overs])
    shifted = power_of_two(np.array([0, *overs, 5]), 3600 * SECOND)[1:-1]
    assert together.tobytes() == alone.tobytes() == np.ascontiguousarray(shifted).tobytes()


def ask(op: str, events: list[tuple[int, float]], q: int, half_life_s: int = 3600) -> Values:
    records = tuple(
        Record("click", 0, i, t, t, {"at": float(t), "user": "u1", "x": x, "y": None, "kind": None})
        for i, (t, x) in enumerate(sorted(events))
    )
    world = World(view([aggregation(op, [], half_life_s=half_life_s)], [CLICKS]), {"click": CLICKS}, records)
    return recompute(world.kernel, world.sources, partitions_of(world), ["u1"], np.array([q]), applied_of(records))


def test_an_event_of_a_half_life_ago_weighs_half_and_one_beyond_forty_nothing() -> None:
    hour = 3600 * SECOND
    events = [(NOON, 8.0), (NOON - hour, 8.0), (NOON - 3 * hour, 8.0), (NOON - 42 * hour, 8e9)]
    assert ask("decayed_sum", events, NOON).values.tolist() == [[8 + 4 + 1]]
    assert ask("decayed_count", events, NOON).values.tolist() == [[1 + 0.5 + 0.125]]
    assert ask("decayed_mean", events, NOON).values.tolist() == [[8.0]]
    assert ask("decayed_sum", events, NOON + hour).values.tolist() == [[6.5]]
    assert np.isnan(ask("decayed_mean", events, NOON + 60 * hour).values[0, 0])


@pytest.mark.parametrize("x", [float(np.nextafter(2.0**63, 0)), -float(np.nextafter(2.0**63, 0)), 2.0**-50, 1e-12])
def test_large_values_do_not_overflow_and_small_ones_keep_their_bits(x: float) -> None:
    for after in (0, 1, 1799 * SECOND, 3599 * SECOND):
        got = Fraction(float(ask("decayed_sum", [(NOON, x)], NOON + after).values[0, 0]))
        exact = Fraction(x) * power(-after, 3600 * SECOND)
        assert abs(got - exact) <= abs(exact) / 2**45 + Fraction(1, 2**55)


def test_rows_merged_across_a_landmark_would_give_another_value() -> None:
    """So the rows of a window are apart by its tile, and roll-up and the training join keep them so."""
    layout = Layout.of(view([aggregation("decayed_sum", [])], [CLICKS]), CLICKS)
    assert layout.apart_us == layout.finest == 3600 * SECOND
    times = [NOON, NOON + 4000 * SECOND]
    world = World(view([aggregation("decayed_sum", [])], [CLICKS]), {"click": CLICKS}, ())
    events = partitions_of(world, [
        Record("click", 0, i, t, t, {"at": 0.0, "user": "u1", "x": 3.0, "y": None, "kind": None}) for i, t in enumerate(times)
    ])["click"][0]
    rows = lift(layout, events)
    (partial,) = [p for p in layout.partials if isinstance(p, Decayed)]

    def value(found: np.ndarray) -> float:
        table = layout.table(found)
        limbs = table[:, list(layout.places(partial))].T
        how = {"tile_us": partial.tile_us, "half_life_us": partial.half_life_us}
        return float(decayed(limbs, table[:, 0], np.zeros(len(found), np.int64), np.array([NOON + 7200 * SECOND]), 1, **how)[0])

    merged = merge(layout, rows, np.arange(2), np.zeros(1, np.int64))
    assert value(rows) == value(rows[::-1])
    assert abs(value(rows) - value(merged)) > 0.1
