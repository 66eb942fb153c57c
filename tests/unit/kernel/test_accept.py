from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.kernel.worlds import LIFETIME, NOON, SECOND, aggregation, sliding, source, tumbling, view

from featureflow.clock import NO_TIME_US
from featureflow.kernel.accept import Verdict, judge, late
from featureflow.kernel.columns import Layout
from featureflow.kernel.events import Events

SOURCE = source(disorder_s=60, future_s=30)


def events(times: list[int], timestamps: list[int] | None = None) -> Events:
    at = np.array(times, np.int64)
    stamped = at if timestamps is None else np.array(timestamps, np.int64)
    return Events(0, np.arange(len(at)), at, stamped, {}, append_time=timestamps is not None)


def layout(*windows: object, ttl_s: int | None = None) -> Layout:
    return Layout.of(view([aggregation("count", windows)], [SOURCE], ttl_s=ttl_s), SOURCE)


def test_a_record_is_from_the_future_past_the_brokers_timestamp_and_the_tolerance() -> None:
    limit = NOON + 30 * SECOND
    verdict = judge(events([limit, limit + 1, NOON - 5], [NOON] * 3), NO_TIME_US, SOURCE)
    assert verdict.accepted.tolist() == [True, False, True]
    assert verdict.running_max_us.tolist() == [limit] * 3


def test_a_refused_record_does_not_move_the_running_maximum() -> None:
    times = [NOON, NOON + 3600 * SECOND, NOON + 31 * SECOND]
    for at in (events(times, [NOON] * 3), events(times)):
        verdict = judge(at, NO_TIME_US, SOURCE)
        assert verdict.accepted.tolist() == [True, False, False]
        assert verdict.max_time_us(NO_TIME_US) == NOON


def test_under_producer_time_the_running_maximum_bounds_the_future_and_the_first_record_is_accepted() -> None:
    verdict = judge(events([NOON, NOON + 30 * SECOND, NOON + 60 * SECOND, NOON + 90 * SECOND + 1]), NO_TIME_US, SOURCE)
    assert verdict.accepted.tolist() == [True, True, True, False]
    assert judge(events([NOON]), NOON - 31 * SECOND, SOURCE).accepted.tolist() == [False]
    assert judge(events([NOON + 10**12]), NO_TIME_US, SOURCE).accepted.tolist() == [True]


def test_an_empty_batch_keeps_the_maximum() -> None:
    for at in (events([]), events([], [])):
        assert judge(at, NOON, SOURCE).max_time_us(NOON) == NOON


@given(
    st.lists(st.tuples(st.integers(-100, 100), st.integers(-20, 20)), max_size=30),
    st.booleans(), st.sampled_from([NO_TIME_US, NOON, NOON + 50 * SECOND]), st.data(),
)  # fmt: skip
def test_verdicts_do_not_depend_on_batch_boundaries(
    steps: list[tuple[int, int]], append_time: bool, before: int, data: st.DataObject
) -> None:
    times = [NOON + a * SECOND for a, _ in steps]
    whole_events = events(times, [NOON + b * SECOND for _, b in steps] if append_time else None)
    whole = judge(whole_events, before, SOURCE)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(steps)))))
    accepted: list[bool] = []
    running: list[int] = []
    maximum = before
    for begin, end in zip([0, *cuts], [*cuts, len(steps)], strict=True):
        part = judge(whole_events.take(np.arange(begin, end)), maximum, SOURCE)
        maximum = part.max_time_us(maximum)
        accepted += part.accepted.tolist()
        running += part.running_max_us.tolist()
    assert (accepted, running) == (whole.accepted.tolist(), whole.running_max_us.tolist())


@pytest.mark.parametrize(
    ("of", "reach_s"),
    [
        (layout(sliding(600), sliding(3600)), 3600),
        (layout(tumbling(7200), sliding(3600)), 7200),
        (layout(LIFETIME, sliding(60), ttl_s=1800), 1800),
        (layout(LIFETIME, sliding(3600), ttl_s=60), 3600),
    ],
)
def test_late_is_older_than_the_longest_window_and_the_disorder(of: Layout, reach_s: int) -> None:
    oldest = NOON - (reach_s + 60) * SECOND
    at = events([oldest, oldest - 1, NOON])
    verdict = Verdict(np.ones(3, np.bool_), np.full(3, NOON))
    assert late(of, at, verdict).tolist() == [False, True, False]
    assert late(of, at, replace(verdict, accepted=np.zeros(3, np.bool_))).tolist() == [False] * 3


def test_nothing_is_late_for_a_lifetime_without_ttl() -> None:
    at = events([0, NOON])
    assert not late(layout(LIFETIME, sliding(60)), at, Verdict(np.ones(2, np.bool_), np.full(2, NOON))).any()
