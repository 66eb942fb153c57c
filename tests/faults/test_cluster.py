"""Events are folded into a real Redis Cluster while slots move between its primaries and a primary is killed: nothing is lost or doubled,
and whoever reads meanwhile is given what is right for the offsets it is given with, or nothing.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from lua_cuts import without
from prometheus_client import CollectorRegistry
from redis.crc import key_slot
from redis_cluster import PATIENT_MS, QUICK_MS, Node, RealCluster, running, until
from replay import recompute
from worker_rig import RIDER, RIDERS, SECOND_US, TRIP, Rig

from featureflow.clock import SystemClock
from featureflow.errors import UnavailableError
from featureflow.ingest.metrics import WorkerMetrics
from featureflow.ingest.worker import Worker
from featureflow.kernel import state
from featureflow.kernel.finalize import ViewKernel
from featureflow.store.online import record
from featureflow.store.online.cluster import ClusterOnlineStore
from featureflow.store.online.cluster_reader import ClusterReader

BUCKETS = 8
PATIENCE_S = 120.0


@pytest.fixture
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RealCluster]:
    """``param``: after how many milliseconds a node that does not answer is taken for dead."""
    with running(tmp_path / "cluster", getattr(request, "param", PATIENT_MS)) as made:
        yield made


class Ingest:
    """A worker over a log in memory and the cluster."""

    def __init__(self, online: ClusterOnlineStore, seed: int) -> None:
        self.rig = Rig(2, online=online, buckets=BUCKETS, seed=seed)
        self.rig.clock.at_us = SystemClock().now_us()
        self.worker = Worker(
            self.rig.log, online, self.rig.project, SystemClock(), WorkerMetrics(CollectorRegistry()), commit_rows=20, buckets=BUCKETS
        )
        self.worker.open()

    def step(self, events: int = 0) -> None:
        self.rig.produce(events)
        self.worker.step(timeout_s=0.02)

    def rides(self, at_us: int) -> None:
        """Three of one rider, in one tile."""
        self.rig.append([self.rig.trip(rider="ada", zone=None, at=at_us, fare=20.0) for _ in range(3)])
        self.drain()

    def drain(self) -> None:
        end = self.rig.log.topic(TRIP.topic).end
        deadline = time.monotonic() + PATIENCE_S
        while {s.partition: s.offset for s in self.worker.status().partitions} != end:
            assert time.monotonic() < deadline, f"not drained: {self.worker.status()}"
            self.worker.step(timeout_s=0.02)

    def slot(self, rider: str) -> int:
        return key_slot(self.rig.keys.state("rider", rider, RIDER.id, "trip", None))


class Asker:
    """Reads riders all the time, on an event loop of its own, and remembers what it was given."""

    def __init__(self, url: str, rig: Rig) -> None:
        self._url, self._rig = url, rig
        self._ending = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._ask()), name="asker")
        self.unavailable = 0
        self.given: list[tuple[str, dict[int, int], bytes | None]] = []
        self.failed: BaseException | None = None

    def __enter__(self) -> Asker:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ending.set()
        self._thread.join()

    async def _ask(self) -> None:
        reader, keys = ClusterReader(self._url, timeout_s=0.5), self._rig.keys
        try:
            while not self._ending.is_set():
                for rider in RIDERS:
                    bucket = keys.buckets[keys.number(rider)]
                    names = [keys.offset(RIDER.id, "trip", p, bucket) for p in range(2)]
                    try:
                        *offsets, blob = await reader.read([*names, keys.state("rider", rider, RIDER.id, "trip", None)])
                    except UnavailableError:
                        self.unavailable += 1
                        continue
                    records = [record.decode(value) for value in offsets if value is not None]
                    if len(records) == 2 and all(r.dirty == -1 for r in records):
                        self.given.append((rider, {p: r.offset for p, r in enumerate(records)}, blob))
                await asyncio.sleep(0.002)
        except BaseException as error:
            self.failed = error
        finally:
            await reader.close()

    def heard(self) -> None:
        """Wait until it was given what it asked for after this was called: the first answer may be on its way already."""
        begin = len(self.given)
        until(lambda: len(self.given) > begin + 1 or self.failed is not None, "somebody was answered")

    def wrong(self) -> list[str]:
        """What was given and is not what the log says up to the offsets that it was given with."""
        assert self.failed is None, repr(self.failed)
        rig, kernel = self._rig, ViewKernel(RIDER, {"trip": TRIP})
        layout, events = kernel.layouts["trip"], {"trip": rig.events()}
        q = np.array([rig.clock.now_us() + 60 * SECOND_US])
        distinct = {(rider, tuple(applied.items()), blob) for rider, applied, blob in self.given}
        found = []
        for rider, applied, blob in sorted(distinct, key=lambda one: (one[0], one[1], one[2] or b""))[:: max(1, len(distinct) // 150)]:
            mine = kernel.finalize({"trip": state.parse(layout, [[blob]])}, q)
            right = recompute(kernel, {"trip": TRIP}, events, [rider], q, {"trip": dict(applied)})
            if mine.values.tobytes() != right.values.tobytes():
                found.append(f"{rider} at {applied}: {mine.values} and not {right.values}")
        return found


def test_slots_that_move_while_events_are_folded_lose_and_double_nothing(cluster: RealCluster) -> None:
    with closing(ClusterOnlineStore(cluster.url)) as online:
        ingest = Ingest(online, seed=11)
        with Asker(cluster.url, ingest.rig) as asker:
            for _ in range(5):
                ingest.step(40)
                asker.heard()
            for slot in dict.fromkeys(map(ingest.slot, RIDERS)):
                source, target = cluster.begin_move(slot)
                for _ in range(4):
                    ingest.step(15)
                    cluster.move_keys(slot, source, target, 2)     # half way: some keys are here and some there
                cluster.end_move(slot, source, target)
                for _ in range(4):
                    ingest.step(15)
                    asker.heard()
            ingest.drain()
        assert ingest.rig.agrees()
        assert asker.wrong() == []
        assert len({applied for _, applied, _ in map(_frozen, asker.given)}) > 10, "it read while the offsets moved"


def _frozen(given: tuple[str, dict[int, int], bytes | None]) -> tuple[str, tuple[tuple[int, int], ...], bytes | None]:
    return given[0], tuple(given[1].items()), given[2]


def lose_the_newest(cluster: RealCluster, online: ClusterOnlineStore, *, kill: bool) -> tuple[Ingest, Asker]:
    """
        replica    of a primary stands still and is cut off
        worker     commits to the primary, which says so, and goes on
        primary    is killed, or goes on; the replica, which lacks those commits, is promoted
        worker     hears of it: nobody answers; or its next commit is sent on to the other, and refused for its offset
    """
    ingest = Ingest(online, 12)
    with Asker(cluster.url, ingest.rig) as asker:
        for _ in range(6):
            ingest.step(40)
        tile_us = ingest.rig.clock.now_us() - 30 * SECOND_US
        ingest.rides(tile_us)
        primary = cluster.owner(ingest.rig.keys.state("rider", "ada", RIDER.id, "trip", None))
        replica = cluster.nodes[cluster.nodes.index(primary) + 3]
        assert replica.process is not None
        until(lambda: _follows(primary), "the replica has all of it")
        replica.process.send_signal(signal.SIGSTOP)
        primary.client.execute_command("CLIENT", "KILL", "TYPE", "replica")
        ingest.rides(tile_us)              # into a row that is there: what is lost leaves every state as long as it was
        if kill:
            primary.kill()
        else:
            promote = replica.client.connection_pool.get_connection()
            promote.send_command("CLUSTER", "FAILOVER", "TAKEOVER")        # before it finds its primary again
        replica.process.send_signal(signal.SIGCONT)
        until(lambda: bool(cluster.slots_of(replica)), "the replica is promoted")
        if not kill:
            until(lambda: not cluster.slots_of(primary), "the primary has heard of it")
        ingest.rides(tile_us + 20 * SECOND_US)
        for _ in range(4):
            ingest.step(10)
        ingest.drain()
    return ingest, asker


def _follows(primary: Node) -> bool:
    told = primary.client.info("replication")
    return "slave0" in told and bool(told["slave0"]["offset"] == told["master_repl_offset"])


@pytest.mark.parametrize(("cluster", "kill"), [(QUICK_MS, True), (PATIENT_MS, False)], indirect=["cluster"], ids=["killed", "taken over"])
def test_a_failover_that_loses_the_newest_commits_is_noticed_and_they_are_folded_again(cluster: RealCluster, kill: bool) -> None:
    with closing(ClusterOnlineStore(cluster.url)) as online:
        ingest, asker = lose_the_newest(cluster, online, kill=kill)
        assert ingest.rig.agrees()
        assert asker.wrong() == []
        assert asker.unavailable > 0 or not kill, "while there was no primary nobody was answered"
        dead = [f"127.0.0.1:{node.port}" for node in cluster.nodes if not node.process]
        assert len(dead) == kill
        until(lambda: dead == [found.split()[1] for found in online.check() if "for failed" in found], "the dead are named")


def test_without_the_offset_check_such_a_failover_gives_a_wrong_state(cluster: RealCluster) -> None:
    with closing(ClusterOnlineStore(cluster.url, lua=without("offset"))) as online:
        ingest, _ = lose_the_newest(cluster, online, kill=False)
        assert not ingest.rig.agrees()


def test_one_commit_of_a_bucket_whose_slot_is_on_its_way_is_applied_once_or_not_at_all(cluster: RealCluster) -> None:
    moved: list[int] = []
    with closing(ClusterOnlineStore(cluster.url)) as online:
        ingest = Ingest(online, seed=13)
        ingest.step(60)
        ingest.drain()
        slot = ingest.slot("ada")
        source, target = cluster.begin_move(slot)
        while (keys := source.client.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot)) > 0:
            ingest.step(3)
            moved.append(cluster.move_keys(slot, source, target, 1))
            assert keys > 0
        for _ in range(5):
            ingest.step(3)                 # all keys have gone and the slot has not: ASK
        cluster.end_move(slot, source, target)
        ingest.drain()
        assert sum(moved) > 3
        assert ingest.rig.agrees()


