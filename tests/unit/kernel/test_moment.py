"""What of an instant features hang on: the tiles that it is in, where nothing hangs on the instant itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, event, given, settings
from replay import recompute
from unit.kernel.worlds import (
    EXACT,
    LIFETIME,
    NOON,
    SECOND,
    SKETCHED,
    WINDOWS,
    World,
    aggregation,
    answers_of,
    applied_of,
    bits,
    exact,
    hopping,
    partitions_of,
    session,
    sliding,
    source,
    tumbling,
    view,
    worlds,
)  # fmt: skip

from featureflow.define.spec import Aggregation
from featureflow.kernel.finalize import ViewKernel

TIMED = ("time_since_last", "decayed_sum", "decayed_mean", "decayed_count")
STEADY = (*(op for op in EXACT if op not in TIMED), *SKETCHED)


@settings(max_examples=25)
@given(worlds(most=25, ops=STEADY, windows=WINDOWS.filter(lambda window: window.kind != "session" and not window.exact)))
def test_features_of_one_moment_are_the_same_to_the_bit(world: World) -> None:
    """Asked for at both sides of all that may be a boundary: events, tiles, and where events leave windows."""
    assume(world.records and world.kernel.moment(NOON) is not None)
    lengths = [0, *(w.length_us for layout in world.kernel.layouts.values() for w in layout.windows if w.kind != "lifetime")]
    instants = sorted(
        {
            (record.time_us + length) // tile * tile + beside
            for record in world.records
            for length in lengths
            for tile in (1, 10 * SECOND, 3600 * SECOND)
            for beside in (-1, 0, tile - 1)
        }
    )
    instants = [q for q in instants if q >= world.now]                # as a scorer asks: of now
    moments = [world.kernel.moment(q) for q in instants]
    values = recompute(
        world.kernel, world.sources, partitions_of(world), ["u1"] * len(instants), np.array(instants), applied_of(world.records)
    )
    first: dict[object, object] = {}
    for row, moment in enumerate(moments):
        answer = bits(answers_of(world, values, row))
        assert first.setdefault(moment, answer) == answer, instants[row]
    event(f"{len(moments) > len(first) > 1}")


def kernel(*declared: Aggregation, ttl_s: int | None = None) -> ViewKernel:
    clicks = source()
    return ViewKernel(view(declared, [clicks], ttl_s=ttl_s), {"click": clicks})


def test_a_moment_ends_where_a_window_or_a_tile_of_the_finest_begins_anew() -> None:
    ten = kernel(aggregation("count", [sliding(600)]))                 # tiles of 10 s
    assert ten.moment(NOON) == ten.moment(NOON + 10 * SECOND - 1) != ten.moment(NOON + 10 * SECOND)
    assert ten.moment(NOON - 1) != ten.moment(NOON)
    minute = kernel(aggregation("count", [hopping(600, 60, 20)]))
    assert minute.moment(NOON + 20 * SECOND - 1) != minute.moment(NOON + 20 * SECOND)
    uneven = kernel(aggregation("count", [sliding(125)]))              # no multiple of its tiles of 10 s
    assert uneven.moment(NOON + 5 * SECOND - 1) != uneven.moment(NOON + 5 * SECOND)
    head = kernel(aggregation("count", [tumbling(90)]))                # tiles of 10 s: an event ahead of its time counts from its tile on
    assert head.moment(NOON + 10 * SECOND - 1) != head.moment(NOON + 10 * SECOND)
    shifted = kernel(aggregation("count", [tumbling(86_400, 21_600), sliding(86_400)]))
    six = NOON - 6 * 3600 * SECOND
    assert shifted.moment(six - 1) != shifted.moment(six)
    ever = kernel(aggregation("count", [LIFETIME]))
    assert ever.moment(NOON) == ever.moment(NOON + 400 * 86_400 * SECOND)


@pytest.mark.parametrize("op", TIMED)
def test_there_is_none_where_a_value_hangs_on_the_instant_itself(op: str) -> None:
    assert kernel(aggregation(op, [sliding(600)]), aggregation("count", [sliding(600)])).moment(NOON) is None


def test_there_is_none_of_sessions_exact_windows_and_what_expires() -> None:
    assert kernel(aggregation("count", [session(60)])).moment(NOON) is None
    assert kernel(aggregation("count", [exact(sliding(600))])).moment(NOON) is None
    assert kernel(aggregation("last_n", [LIFETIME], size=3), ttl_s=3600).moment(NOON) is None
