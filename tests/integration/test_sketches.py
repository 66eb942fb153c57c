"""Sketches beside other aggregations, through a worker and the scorer's fetch, on real servers: what is recomputed from the log."""

from __future__ import annotations

import asyncio
from contextlib import closing

import numpy as np
from worker_rig import PROJECT, RIDERS, START_US, Rig, with_sketches

from featureflow.clock import SystemClock
from featureflow.reading.features import finalize
from featureflow.reading.fetch import Fetcher, Unread
from featureflow.reading.plan import Plan
from featureflow.store.online.reader import AsyncReader
from featureflow.store.online.redis import RedisOnlineStore

SKETCHED = with_sketches(PROJECT)


def test_what_is_fetched_after_folds_and_roll_ups_is_recomputed_to_the_bit(redis_url: str) -> None:
    with closing(RedisOnlineStore(redis_url)) as online:
        rig = Rig(project=SKETCHED, online=online)
        worker = rig.worker(commit_rows=100)
        worker.open()
        for _ in range(6):
            rig.produce(80)
            rig.drain(worker)
            rig.clock.advance(900_000_000)                         # so that rows are rolled up
        assert rig.clock.now_us() - START_US > 3_600_000_000
        assert rig.agrees()
        q_us = rig.clock.now_us()
        view = SKETCHED.views[0]
        plan = Plan(SKETCHED, {"trip": rig.partitions}).views[view.name]

        async def fetched() -> np.ndarray:
            reader = AsyncReader(redis_url, timeout_s=60.0)
            try:
                found = await Fetcher(reader, SystemClock(), 10**12).fetch({plan: list(RIDERS)}, None)
            finally:
                await reader.close()
            assert not isinstance(found, Unread)
            return finalize(found[plan], q_us).values

        values = asyncio.run(fetched())
        assert values.tobytes() == rig.expected(view, q_us).values.tobytes()
        ops = np.array([f.aggregation.op for f in view.features for _ in range(f.numbers)])
        assert np.nanmax(values[:, ops == "approx_distinct"]) > 5
        assert np.nanmax(values[:, ops == "top_k_count"]) >= 1
