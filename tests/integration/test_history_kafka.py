"""What only a real broker shows of the history writer: a topic that goes and comes back under its name."""

from __future__ import annotations

import time
import uuid

import msgspec
from kafka import KafkaAdminClient
from prometheus_client import CollectorRegistry
from trips import BEGIN_US, PROJECT

from featureflow.clock import SystemClock
from featureflow.define import system
from featureflow.errors import LogError, UnavailableError
from featureflow.ingest.history_metrics import HistoryMetrics
from featureflow.ingest.history_writer import HistoryWriter
from featureflow.store.history.sql import SqlHistory
from featureflow.store.log.kafka import KafkaLog
from featureflow.store.log.protocol import Record
from servers import Services

PATIENCE_S = 150.0
DEPARTURE = PROJECT.source("departure")


def test_a_topic_that_is_created_again_and_outgrows_history_stops_the_writer(
    kafka_log: KafkaLog, services: Services, sqlite_url: str
) -> None:
    name = f"again{uuid.uuid4().hex[:8]}"
    source = msgspec.structs.replace(DEPARTURE, topic=f"departures-{name}")
    project = msgspec.structs.replace(PROJECT, name=name, sources=(source,))
    history = SqlHistory(sqlite_url)
    history.migrate()
    for one in (source, *system.system_sources(name)):
        history.ensure_source(one)
        kafka_log.ensure_topic(one.topic, 1)

    def produce(count: int, note: str) -> None:
        values = {"at": BEGIN_US, "carrier": "AA", "origin": 1, "delay": 0.5, "diverted": False, "note": note}
        kafka_log.append(source.topic, [Record(msgspec.json.encode(values), partition=0)] * count)

    writer = HistoryWriter(kafka_log, history, project, SystemClock(), HistoryMetrics(CollectorRegistry()))
    writer.open()
    try:
        produce(5, "before")
        until = time.monotonic() + PATIENCE_S
        while history.offsets("departure").get(0) != 5:
            writer.step(timeout_s=0.1)
            assert time.monotonic() < until
        admin = KafkaAdminClient(bootstrap_servers=services.kafka)
        admin.delete_topics([source.topic])
        while not kafka_log.ensure_topic(source.topic, 1):
            assert time.monotonic() < until
        admin.close()
        produce(50, "after")
        said = ""
        while not said:
            assert time.monotonic() < until
            try:
                writer.step(timeout_s=0.1)
            except UnavailableError:
                continue
            except LogError as error:
                said = str(error)
        assert "deleted and created again" in said
        pages = list(history.scan(source, partition=0, columns=["note"]))
        assert [note for page in pages for note in page.events.columns["note"]] == ["before"] * 5
        assert history.offsets("departure") == {0: 5}
    finally:
        writer.close()
        history.close()
