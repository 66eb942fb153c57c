"""Features from raw events equal the oracle, at any instant and any applied offsets."""

from __future__ import annotations

import numpy as np
import pytest
import replay
from hypothesis import given, settings
from hypothesis import strategies as st
from replay import recompute
from unit.kernel.worlds import SECOND, World, answers_of, partitions_of, same, worlds

import oracle


@given(worlds(), st.data())
@settings(max_examples=80, deadline=None)
def test_it_equals_the_oracle_at_any_instant_and_any_applied_offsets(world: World, data: st.DataObject) -> None:
    rows = data.draw(
        st.lists(
            st.tuples(
                st.sampled_from(["u1", "u2", "nobody"]),
                st.sampled_from([0, 1, SECOND, 3600 * SECOND, -SECOND]),
                st.fixed_dictionaries({(s, p): st.integers(0, 100) for s in world.sources for p in (0, 1)}),
            ),
            min_size=1,
            max_size=4,
        )
    )
    anchors = [r.time_us for r in world.records] or [world.now]
    q = [data.draw(st.sampled_from(anchors)) + shift for _, shift, _ in rows]
    applied = {s: {p: np.array([a[s, p] for _, _, a in rows]) for p in (0, 1)} for s in world.sources}
    got = recompute(world.kernel, world.sources, partitions_of(world), [user for user, _, _ in rows], np.array(q), applied)
    for i, (user, _, offsets) in enumerate(rows):
        expected = oracle.answers(world.view, world.sources, world.records, user, q[i], offsets)
        assert same(answers_of(world, got, i), expected)


@given(worlds(most=25))
@settings(max_examples=20, deadline=None)
def test_chunks_do_not_show(world: World) -> None:
    ids, q = ["u1", "u2", "u1", "nobody"], np.full(4, world.now)
    everything = {name: dict.fromkeys((0, 1), 10**6) for name in world.sources}
    whole = recompute(world.kernel, world.sources, partitions_of(world), ids, q, everything)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay, "CHUNK_ROWS", 1)
        pieces = recompute(world.kernel, world.sources, partitions_of(world), ids, q, everything)
    assert whole.values.tobytes() == pieces.values.tobytes()
    assert whole.statuses.tobytes() == pieces.statuses.tobytes()
    assert whole.event_times_us.tobytes() == pieces.event_times_us.tobytes()
