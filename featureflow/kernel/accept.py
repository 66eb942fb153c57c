"""Which records count: decided one by one, in offset order, from the log alone.

The verdict on a record is a pure function of its partition's log up to it, so that replay, another batch boundary or
another worker's clock cannot change it. Everything depends on the running maximum of *accepted* event times of the whole
partition, which is kept beside the offset.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featureflow.clock import NO_TIME_US
from featureflow.define.spec import Source
from featureflow.kernel import text
from featureflow.kernel.columns import Layout
from featureflow.kernel.events import Events
from featureflow.kernel.expression import evaluate, is_true
from featureflow.kernel.tile import LIFETIME_US


@dataclass(frozen=True)
class Verdict:
    """``accepted`` (n,) bool; ``running_max_us`` (n,) int64: the maximum of accepted event times up to and with each record."""

    accepted: NDArray[np.bool_]
    running_max_us: NDArray[np.int64]

    def max_time_us(self, before: int) -> int:
        """The partition's running maximum after these records, ``before`` being what it was before them."""
        return int(self.running_max_us[-1]) if len(self.running_max_us) else before


def judge(events: Events, max_time_us: int, source: Source) -> Verdict:
    """Accept or refuse each record as coming from the future. A refused record does not move the running maximum.

    Where the broker sets the timestamp: future is t > timestamp + ``source.future_us``. Where the producer sets it, it proves
    nothing: future is t > the running maximum + ``source.future_us``, and a partition's first record is always accepted.
    """
    times = events.times_us
    if events.append_time:
        accepted = times <= events.timestamps_us + source.future_us
        running = np.maximum.accumulate(np.where(accepted, times, NO_TIME_US)) if len(times) else times.copy()
        return Verdict(accepted, np.maximum(running, max_time_us))
    return _judge_by_maximum(times, max_time_us, source.future_us)


def _judge_by_maximum(times: NDArray[np.int64], max_time_us: int, future_us: int) -> Verdict:
    n = len(times)
    if n == 0:
        return Verdict(np.zeros(0, np.bool_), times.copy())
    maximum = int(times[0]) if max_time_us == NO_TIME_US else max_time_us
    running = np.maximum(np.maximum.accumulate(times), maximum)
    before = np.concatenate(([maximum], running[:-1]))
    if not (times > before + future_us).any():
        return Verdict(np.ones(n, np.bool_), running)
    accepted = np.zeros(n, np.bool_)
    for i, t in enumerate(times.tolist()):  # rare: each refusal changes what the next is measured by
        if t <= maximum + future_us:
            accepted[i] = True
            maximum = max(maximum, t)
        running[i] = maximum
    return Verdict(accepted, running)


def late(layout: Layout, events: Events, verdict: Verdict) -> NDArray[np.bool_]:
    """Which accepted events are too old for this view: t < running maximum - (its longest window + disorder).

    A view with a lifetime window (or ``last_n``) and no ttl has none; with a ttl, the ttl counts as a window.
    """
    if layout.retention_us == LIFETIME_US:
        return np.zeros(len(events), np.bool_)
    oldest = np.where(verdict.accepted, verdict.running_max_us, 0) - (layout.retention_us + layout.disorder_us)
    return verdict.accepted & (events.times_us < oldest)


def too_wide(layout: Layout, events: Events, among: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of the events ``among`` (n,) hold a string that is longer than what this view keeps of it. The view takes nothing of them.

    Only where the aggregation's condition holds: what is not kept may be as long as it likes.
    """
    wide = np.zeros(len(events), np.bool_)
    for value, where, width in layout.widths:
        asked = np.flatnonzero(among if where is None else among & is_true(evaluate(where, events.columns, len(events))))
        wide[asked[text.lengths(evaluate(value, events.columns, len(events))[asked]) > width]] = True
    return wide


def counted(layout: Layout, events: Events, verdict: Verdict, known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which events count for a view: accepted, not late, of an entity that is ``known`` (n,), and with strings that it can keep."""
    counts = verdict.accepted & ~late(layout, events, verdict) & known
    return counts & ~too_wide(layout, events, counts) if layout.widths else counts
