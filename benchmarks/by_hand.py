"""The worker that a good engineer writes in an afternoon: kafka-python, msgspec, hiredis, pipelines of 1,000. At least once, not exactly.

Sum, count, min, max per user and 10-second tile, in memory and in a Redis hash per user; a reader merges the tiles of its window.
"""

import struct
import sys

import msgspec
import redis
from kafka import KafkaConsumer, TopicPartition


class Event(msgspec.Struct):
    user: str
    at: int
    amount: float


def run(bootstrap: str, topic: str, redis_url: str, events: int) -> None:
    decode = msgspec.json.Decoder(Event).decode
    store = redis.Redis.from_url(redis_url)
    pipeline = store.pipeline(transaction=False)
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id="by-hand",
        enable_auto_commit=False,
        max_poll_records=1000,
        fetch_max_bytes=8 << 20,
    )
    consumer.assign([TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic)])
    consumer.seek_to_beginning()
    tiles: dict[tuple[str, int], list[float]] = {}
    done = 0
    while done < events:
        touched = set()
        for records in consumer.poll(1000).values():
            for record in records:
                event = decode(record.value)
                key = (event.user, event.at // 10_000_000)
                tile = tiles.get(key)
                if tile is None:
                    tiles[key] = [1, event.amount, event.amount, event.amount]
                else:
                    tile[0] += 1
                    tile[1] += event.amount
                    if event.amount < tile[2]:
                        tile[2] = event.amount
                    if event.amount > tile[3]:
                        tile[3] = event.amount
                touched.add(key)
            done += len(records)
        for user, start in touched:
            pipeline.hset(f"byhand:{user}", str(start), struct.pack("<4d", *tiles[user, start]))
            if len(pipeline) >= 1000:
                pipeline.execute()
        pipeline.execute()
        consumer.commit()


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
