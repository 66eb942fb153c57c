"""Hypothesis drives a slab: whatever is folded, committed, refused, dropped and evicted, the store says what a replay says."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from unit.ingest.slab_driver import KEYS, LAYOUTS, NOW_US, Happened, Store, events_of, fold, replay, rows_of

from featureflow.clock import NO_TIME_US
from featureflow.ingest.slab import Slab
from featureflow.kernel.tile import SECOND_US

amounts = st.none() | st.integers(-(2**40), 2**40).map(lambda n: n / 1024 + 0.0)
seen = st.tuples(st.integers(0, 3), st.integers(-3 * SECOND_US, 3 * SECOND_US), amounts)


class SlabMachine(RuleBasedStateMachine):
    """Whatever is folded, committed in parts, refused, evicted and loaded again, the store says what a replay of the log says."""

    @initialize(name=st.sampled_from(sorted(LAYOUTS)))
    def begin(self, name: str) -> None:
        self.layout = LAYOUTS[name]
        self.store = Store(self.layout)
        self.slab = Slab(self.layout, KEYS, max_bytes=20_000)
        self.committed: dict[bytes, list[Happened]] = {}
        self.partition = 0
        self.now = [NOW_US, NOW_US]
        self.watermark = [NO_TIME_US, NO_TIME_US]
        self.offset = 0

    @rule(
        batch=st.lists(seen, min_size=1, max_size=30), step=st.sampled_from([0, 1, 1, 3, 20, 200]), spread=st.sampled_from([0, 1, 1]),
        ends=st.sets(st.integers(1, 29)), applied=st.sampled_from([0, 1, 2, 99, 99, 99]), expire=st.integers(0, 3),
    )
    def fold(
        self, batch: list[tuple[int, int, float | None]], step: int, spread: int, ends: set[int], applied: int, expire: int
    ) -> None:
        chosen = []
        for i, (n, jitter, amount) in enumerate(batch):
            self.now[self.partition] += step * SECOND_US if spread or i == 0 else 0
            chosen.append((n, self.now[self.partition] + jitter, amount))
        self.take(chosen, ends, applied, expire)

    @rule(
        n=st.integers(0, 3), times=st.integers(10, 40), step=st.integers(1, 4), back=st.integers(0, 100), ends=st.sets(st.integers(1, 39))
    )
    def fold_many_rows_of_one_entity(self, n: int, times: int, step: int, back: int, ends: set[int]) -> None:
        self.now[self.partition] += times * step * SECOND_US
        latest = self.now[self.partition] - back * SECOND_US
        self.take([(n, latest - i * step * SECOND_US, 1.0) for i in reversed(range(times))], ends, 99, 0)

    def take(self, chosen: list[tuple[int, int, float | None]], ends: set[int], applied: int, expire: int) -> None:
        """Fold in parts that end there; the first ``applied`` commits come through. Before the last of these some keys expire."""
        partition = self.partition
        if self.layout.keyed:
            chosen = [(2 * n + partition, t, amount) for n, t, amount in chosen]
        events = events_of(partition, self.offset, chosen)
        self.offset += len(chosen)
        commit_of = np.searchsorted(sorted(end for end in ends if end < len(chosen)), np.arange(len(chosen)), side="right")
        parts = fold(self.slab, self.store, events, self.watermark[partition], commit_of.tolist())
        done = 0
        for number, writes in enumerate(parts[:applied]):
            if number == min(applied, len(parts)) - 1:
                for key in [write.key for write in writes if write.patches][:expire]:
                    del self.store.values[key], self.committed[key]
            if self.store.apply(writes):
                break
            done += 1
            for i in np.flatnonzero(commit_of == number).tolist():
                _, t, amount = chosen[i]
                self.watermark[partition] = max(self.watermark[partition], t)
                key = self.slab.key(partition, self.slab.ids(events)[i])
                self.committed.setdefault(key, []).append((t, amount, partition, int(events.offsets[i])))
        self.slab.committed([0] * done + [-1] * (len(parts) - done))

    @rule(partition=st.integers(0, 1))
    def refused(self, partition: int) -> None:
        self.slab.drop(partition)

    @rule()
    def evict(self) -> None:
        self.slab.evict()

    @rule()
    def other_partition(self) -> None:
        self.partition = 1 - self.partition

    @invariant()
    def the_store_says_what_a_replay_says(self) -> None:
        for key in {*self.store.values, *self.committed}:
            blob = self.store.values.get(key)
            assert rows_of(self.layout, blob) == replay(self.layout, blob, self.committed[key])


TestAnySequence = SlabMachine.TestCase
TestAnySequence.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
