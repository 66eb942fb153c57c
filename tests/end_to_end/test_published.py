"""What a view publishes, as a client of Redis alone sees it: what a naive replay of the log says, at the instant that is named."""

from __future__ import annotations

import json
import random
import time
from datetime import datetime
from typing import Any
from urllib.parse import quote
from zlib import crc32

import redis
from naive import Naive
from processes import until
from world import SECOND_US, World

from featureflow.clock import to_us
from featureflow.store.log.protocol import Record

RIDERS = ("ada", "bob:{0}", "c\r\nd", "é*", "a/b%2F", "r1", "r2", "r3")
VIEW = '''

class RiderPublic(View, of=Rider, ttl="30d"{publish}):
    rides = count(Ride, over=("1m", "1h"))
    spent = sum(Ride.fare, over=("10m", "1h"))
    usual = mean(Ride.fare, over=("10m",), default=0.0)
    spread = stddev(Ride.fare, over=("1h",))
    fares = last_n(Ride.fare, 3)


class Ask(Request):'''


def define(world: World, *, publish: bool) -> None:
    text = (world.folder / "features.py").read_text()
    before, _, after = text.partition("\n\nclass RiderPublic") if "RiderPublic" in text else text.partition("\n\nclass Ask(Request):")
    after = after.partition("class Ask(Request):")[2] if "RiderPublic" in text else after
    (world.folder / "features.py").write_text(before + VIEW.format(publish=", publish=True" if publish else "") + after)


def rides(world: World, luck: random.Random, number: int, riders: tuple[str, ...] = RIDERS) -> None:
    records = []
    for _ in range(number):
        now_us = time.time_ns() // 1000
        rider, fare = luck.choice(riders), luck.choice((None, 0.1, 12.5, luck.random() * 1e2))
        value = {"at": now_us - luck.choice((0, 0, luck.randrange(50 * SECOND_US))), "rider": rider, "zone": 1, "fare": fare, "cash": True}
        records.append(Record(json.dumps(value).encode(), rider.encode()))
    world.context.log.append(world.topic_of("ride"), records)


def fold(world: World) -> None:
    worker = world.start("ingest")
    until(world.folded, "the end of the log")
    assert worker.told_to_end() == 0, worker.said()


def read(world: World) -> dict[str, Any]:
    """Rider -> what stands there, read as a stranger would: by the names that the documents give."""
    with redis.Redis.from_url(world.context.online_url) as client:
        found, buckets = {}, int(client.get(f"meta:{{{world.topic}:meta}}:buckets"))  # type: ignore[arg-type]  # bytes
        assert buckets > 1
        for rider in RIDERS:
            escaped = quote(rider, safe="")
            value = client.get(f"plain:{{{world.topic}:{crc32(escaped.encode()) % buckets}/{buckets}}}:rider:{escaped}:rider_public")
            if value is not None:
                assert isinstance(value, bytes)
                found[rider] = json.loads(value)
        assert len(found) == len(list(client.scan_iter(match=f"plain:{{{world.topic}:*", count=1000)))
        return found


def equals_the_replay(world: World, found: dict[str, Any]) -> None:
    view, naive = world.project.view("rider_public"), Naive(world.project, world.records())
    for rider, said in found.items():
        assert said.pop("view") == view.id
        expected = naive.values(view, [rider], to_us(datetime.fromisoformat(said.pop("as_of"))))[rider]
        for feature, wanted in zip(view.features, expected, strict=True):
            several = [None if v != v else v for v in wanted.values]
            assert said.pop(feature.name) == (several if feature.is_sequence else several[0]), (rider, feature.name)
        assert said == {}


def test_a_plain_client_reads_what_the_replay_says_and_rebuild_and_prune_take_it_along(world: World) -> None:
    luck = random.Random(4)
    define(world, publish=False)
    world.featureflow("apply")
    rides(world, luck, 60)
    fold(world)
    assert read(world) == {}
    define(world, publish=True)
    (change,) = world.featureflow("apply")["changes"]
    assert "are published from each entity's next event on" in change["detail"]
    rides(world, luck, 20, RIDERS[:2])
    fold(world)
    found = read(world)
    assert found.keys() == set(RIDERS[:2])
    equals_the_replay(world, found)
    world.featureflow("rebuild", "rider_public")
    assert read(world) == {}
    fold(world)
    found = read(world)
    assert found.keys() == set(RIDERS)
    equals_the_replay(world, found)
    define(world, publish=False)
    assert world.featureflow("apply")["withdrawn"] == 0
    assert read(world).keys() == set(RIDERS)
    assert world.featureflow("apply", "--prune")["withdrawn"] == len(RIDERS)
    assert read(world) == {}
