"""The windows of Bytewax over one topic, into Redis, in an environment of its own.

    python bytewax_job.py BOOTSTRAP TOPIC WINDOW REDIS_URL
"""

import json
import struct
import sys
from datetime import UTC, datetime, timedelta

import bytewax.operators as op
import redis
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.operators import windowing as win
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class Partition(StatelessSinkPartition):
    def __init__(self, url):
        self._redis = redis.Redis.from_url(url)

    def write_batch(self, items):
        pipeline = self._redis.pipeline(transaction=False)
        for user, (window, value) in items:
            pipeline.hset(f"peer:{user}", str(window * 60), struct.pack("<4d", *value))
        pipeline.execute()


class RedisSink(DynamicSink):
    def __init__(self, url):
        self._url = url

    def build(self, step_id, worker_index, worker_count):
        return Partition(self._url)


def add(total, event):
    count, amounts, least, most = total
    amount = event["amount"]
    return count + 1, amounts + amount, min(least, amount), max(most, amount)


def merge(a, b):
    return a[0] + b[0], a[1] + b[1], min(a[2], b[2]), max(a[3], b[3])


def flow(bootstrap, topic, window, url):
    made = Dataflow("windows")
    records = op.input("in", made, KafkaSource([bootstrap], [topic], tail=False, batch_size=1000))
    events = op.map("decode", records, lambda record: json.loads(record.value))
    keyed = op.key_on("key", events, lambda event: event["user"])
    clock = win.EventClock(
        lambda event: BEGINNING + timedelta(microseconds=event["at"]), wait_for_system_duration=MINUTE
    )
    windower = (
        win.SlidingWindower(length=10 * MINUTE, offset=MINUTE, align_to=BEGINNING)
        if window == "hopping"
        else win.TumblingWindower(length=MINUTE, align_to=BEGINNING)
    )
    nothing = (0, 0.0, float("inf"), float("-inf"))
    closed = win.fold_window("fold", keyed, clock, windower, lambda: nothing, add, merge)
    op.output("out", closed.down, RedisSink(url))
    return made


if __name__ == "__main__":
    run_main(flow(*sys.argv[1:]))
