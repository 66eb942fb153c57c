"""The windows of Quix Streams over one topic, into Redis, in an environment of its own.

    python quix_job.py BOOTSTRAP TOPIC WINDOW REDIS_URL STATE

State in RocksDB with a changelog topic, at least once, as it is by default.
"""

import struct
import sys

import redis
from quixstreams import Application
from quixstreams.dataframe.windows import Count, Max, Min, Sum

MINUTE_MS = 60_000
IDLE_S = 10.0  # without a new event: then it ends, after the empty topic as after the full one


def run(bootstrap, topic, window, url, state):
    store = redis.Redis.from_url(url).pipeline(transaction=False)
    application = Application(
        broker_address=bootstrap,
        consumer_group=f"quix-{topic}-{window}",
        auto_offset_reset="earliest",
        state_dir=state,
        loglevel="WARNING",
    )
    source = application.topic(topic, value_deserializer="json", timestamp_extractor=lambda v, h, t, k: v["at"] // 1000)
    frame = application.dataframe(source)
    windows = (
        frame.hopping_window(10 * MINUTE_MS, MINUTE_MS, grace_ms=MINUTE_MS)
        if window == "hopping"
        else frame.tumbling_window(MINUTE_MS, grace_ms=MINUTE_MS)
    )
    closed = windows.agg(
        count=Count(), amount=Sum(column="amount"), least=Min(column="amount"), most=Max(column="amount")
    ).final(closing_strategy="partition")

    def write(value, key, timestamp, headers):
        user = key.decode() if isinstance(key, bytes) else key
        packed = struct.pack("<4d", value["count"], value["amount"], value["least"], value["most"])
        store.hset(f"peer:{user}", str(value["start"] // 1000), packed)
        if len(store) >= 1000:
            store.execute()

    closed.update(write, metadata=True)
    application.run(timeout=IDLE_S)
    store.execute()


if __name__ == "__main__":
    run(*sys.argv[1:])
