"""One history writer: how fast so many events of one topic reach MySQL, and what that costs its client. Prints one JSON line."""

from __future__ import annotations

import json
import sys
import time
import uuid

import msgspec
import sqlalchemy
from fold import cpu_s
from installation import HERE
from prometheus_client import CollectorRegistry
from stream import Stream, produce

from featureflow.clock import SystemClock
from featureflow.define.project import load
from featureflow.ingest.history_metrics import HistoryMetrics
from featureflow.ingest.history_writer import HistoryWriter
from featureflow.log_lines import log_as_json
from featureflow.store.history.sql import SqlHistory
from featureflow.store.log.open import open_log
from featureflow.store.online.memory import MemoryOnlineStore
from featureflow.store.registry import Registry


def main(kafka: str, mysql: str, topic: str, events: int) -> None:
    log_as_json()
    name = f"bench_{uuid.uuid4().hex[:8]}"
    engine = sqlalchemy.create_engine(mysql, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    try:
        log, history = open_log(f"kafka://{kafka}"), SqlHistory(f"{mysql}/{name}")
        project = load(HERE / "payments.py")
        source = msgspec.structs.replace(project.sources[0], topic=topic)
        project = msgspec.structs.replace(project, name=name.replace("_", "-"), sources=(source,))    # dead letters of its own
        Registry(history, MemoryOnlineStore(SystemClock()), log).apply(project, partitions=1)
        stream = Stream.of(events, 10_000)
        produce(kafka, topic, stream)
        writer = HistoryWriter(log, history, project, SystemClock(), HistoryMetrics(CollectorRegistry()), group=f"{name}-history")
        writer.open()
        while not writer.status().offsets:
            writer.step(timeout_s=0.05)
        already = writer.status().rows
        began, used = time.perf_counter(), cpu_s()
        while writer.status().rows < events:
            writer.step()
        wall_s, used_s, rows = time.perf_counter() - began, cpu_s() - used, events - already
        with engine.connect() as connection:
            count, total = connection.execute(sqlalchemy.text(f"SELECT COUNT(*), SUM(ROUND(amount * 100)) FROM {name}.ev_payment")).one()
        if (int(count), int(total)) != (events, int(stream.cents.sum())):
            raise SystemExit(f"history holds {count} events of {total} cents, must be {events} of {stream.cents.sum()}")
        writer.close()
        print(json.dumps({
            "events": rows, "rows_per_s": round(rows / wall_s), "client_cpu_us_per_row": round(used_s / rows * 1e6, 3),
            "checked": "the number of rows and the sum of their amounts",
        }))  # fmt: skip
    finally:
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(f"DROP DATABASE {name}"))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
