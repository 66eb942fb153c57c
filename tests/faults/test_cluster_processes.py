"""``apply``, ``ingest`` and ``serve`` as processes, on Kafka and a Redis Cluster whose slots move and whose primaries die meanwhile."""

from __future__ import annotations

import json
import time
from pathlib import Path

from processes import until
from redis.crc import key_slot
from redis_cluster import QUICK_MS, running
from world import MODEL, PARTITIONS, SECOND_US, World, check_state

from featureflow.store.keys import Keys
from featureflow.store.log.protocol import Record
from featureflow.store.mirror import buckets_of
from servers import Services


def produce(world: World, count: int) -> None:
    now_us, records = time.time_ns() // 1000, []
    for n in range(count):
        ride = {"at": now_us - n % 30 * SECOND_US, "rider": f"r{n % 50}", "zone": n % 3, "fare": n % 90 / 7, "cash": n % 2 == 0}
        records.append(Record(json.dumps(ride).encode(), f"r{n % 50}".encode()))
    world.context.log.append(world.topic_of("ride"), records)


def test_a_project_on_a_cluster_counts_every_event_once_through_moves_and_a_failover(services: Services, tmp_path: Path) -> None:
    with running(tmp_path / "cluster", QUICK_MS) as cluster:
        settings = {"FEATUREFLOW_LOG_URL": f"kafka://{services.kafka}", "FEATUREFLOW_ONLINE_URL": cluster.url}
        with World(tmp_path / "project", settings, f"cluster{time.time_ns():x}") as world:
            world.featureflow("apply")
            world.add_model()
            assert buckets_of(world.context.online) == 16
            ingest = world.start("ingest")
            _, scorer = world.serve()
            keys = Keys(world.project.name, 16)
            produce(world, 100)
            until(world.folded, "the first events")
            sent = 100
            for bucket in keys.buckets[:4]:
                view = world.project.views[0]
                slot = key_slot(keys.offset(view.id, view.sources[0], 0, bucket))
                source, target = cluster.begin_move(slot)
                for _ in range(3):
                    produce(world, 100)
                    sent += 100
                    cluster.move_keys(slot, source, target, 3)
                    time.sleep(0.05)
                cluster.end_move(slot, source, target)
            cluster.fail_over(cluster.primaries()[0])
            assert ingest.state() != "Z", ingest.err()[-2000:]
            for _ in range(5):
                produce(world, 100)
                sent += 100
            until(world.folded, "the end of the log, after the failover")
            asked = {"entities": {"rider": "r1", "zone": 1}, "context": {"hour": 1}}
            until(lambda: scorer.post(f"/v1/score/{MODEL}", asked)[1].get("degraded") == [], "a score that lacks nothing")
            assert "Traceback" not in ingest.said()
            assert ingest.told_to_end() == 0
            records = world.records()
            assert len(records) == sent
            assert len({record.partition for record in records}) == PARTITIONS
            assert check_state(world, records, [max(record.time_us for record in records) + SECOND_US]) > 100
