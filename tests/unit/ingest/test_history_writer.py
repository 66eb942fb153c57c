"""The history writer: every event once, resumed from where history stands, whatever breaks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from trips import BEGIN_US, PROJECT

from featureflow.clock import ManualClock
from featureflow.define import system
from featureflow.define.spec import DEFAULT_PROJECT, Source
from featureflow.errors import (
    LogError,
    OffsetOutOfRangeError,
    UnavailableError,
    UnknownOutcomeError,
)
from featureflow.ingest.history_metrics import HistoryMetrics
from featureflow.ingest.history_writer import HistoryWriter
from featureflow.kernel.events import Events
from featureflow.store.history.protocol import Extent, Statement
from featureflow.store.history.sql import SqlHistory
from featureflow.store.log.memory import MemoryLog
from featureflow.store.log.protocol import Partition, Record

PREDICTIONS = system.predictions(DEFAULT_PROJECT)

DEAD_LETTERS = system.dead_letters(DEFAULT_PROJECT)

DEPARTURE = PROJECT.source("departure")


def departure(i: int, **changed: object) -> bytes:
    values = {
        "at": BEGIN_US + i, "carrier": "AA", "origin": 1, "delay": i / 10, "diverted": False, "note": f"n{i}", **changed,
    }
    return msgspec.json.encode(values)


class Faulty:
    """The real history with faults as data: the n-th append raises ``faults[n]``, before or after it was done."""

    def __init__(self, history: SqlHistory, faults: dict[int, tuple[str, Exception]]) -> None:
        self._history, self._faults, self.appends = history, faults, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._history, name)

    def append(self, source: Source, partition: int, events: Events, from_offset: int, to_offset: int, *refused: Any) -> None:
        when, error = self._faults.get(self.appends, ("", None))
        self.appends += 1
        if when == "before" and error is not None:
            raise error
        self._history.append(source, partition, events, from_offset, to_offset, *refused)
        if when == "after" and error is not None:
            raise error


class Rig:
    def __init__(self, url: str) -> None:
        self.clock = ManualClock(BEGIN_US)
        self.log, self.history = MemoryLog(self.clock), SqlHistory(url)
        self.history.migrate()
        self.registry = CollectorRegistry()
        for source in (*PROJECT.sources, *system.system_sources(DEFAULT_PROJECT)):
            self.history.ensure_source(source)
            self.log.ensure_topic(source.topic, 2)

    def writer(self, faults: dict[int, tuple[str, Exception]] | None = None) -> HistoryWriter:
        self.registry = CollectorRegistry()
        history: Any = Faulty(self.history, faults or {})
        return HistoryWriter(self.log, history, PROJECT, self.clock, HistoryMetrics(self.registry))

    def produce(self, n: int, first: int = 0) -> None:
        self.log.append(DEPARTURE.topic, [Record(departure(i), partition=i % 2) for i in range(first, first + n)])

    def notes(self) -> list[str]:
        found: list[str] = []
        for partition in (0, 1):
            for page in self.history.scan(DEPARTURE, partition=partition, columns=["note"]):
                found += page.events.columns["note"].tolist()
        return found

    def value(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def rig(sqlite_url: str) -> Iterator[Rig]:
    rig = Rig(sqlite_url)
    yield rig
    rig.history.close()


def drain(writer: HistoryWriter, log: MemoryLog, source: Source = DEPARTURE) -> int:
    """Step until history is at the log's end; how many errors were met on the way."""
    errors = 0
    writer.open()
    for _ in range(50):
        try:
            writer.step(timeout_s=0)
        except UnavailableError:
            errors += 1
        end = log.topic(source.topic).end
        if all(writer.status().offsets.get(Partition(source.name, p)) == offset for p, offset in end.items()):
            return errors
    raise AssertionError(f"not drained: {writer.status()}")


def notes(n: int) -> list[str]:
    return [f"n{i}" for i in range(0, n, 2)] + [f"n{i}" for i in range(1, n, 2)]


def test_every_event_is_written_once_and_a_second_writer_goes_on_where_history_stands(rig: Rig) -> None:
    rig.produce(10)
    first = rig.writer()
    drain(first, rig.log)
    first.close()
    rig.log.advisory.clear()                       # what the group says is never read
    rig.produce(6, 10)
    drain(rig.writer(), rig.log)
    assert rig.notes() == notes(16)
    assert rig.value("featureflow_history_rows_total", source="departure") == 6


def test_records_that_are_no_events_are_passed_over(rig: Rig) -> None:
    bad = [b"{", departure(1, carrier=None), departure(2, delay="soon"), b"x" * 100_000]
    values = [departure(0), *bad, departure(9)]
    rig.log.append(DEPARTURE.topic, [Record(value, partition=0) for value in values])
    writer = rig.writer()
    drain(writer, rig.log)
    assert rig.notes() == ["n0", "n9"]
    assert rig.history.extents("departure") == {0: Extent(0, 6), 1: Extent(0, 0)}
    assert writer.status().skipped == 4


def test_the_systems_own_sources_are_drained_too(rig: Rig) -> None:
    letter = {
        "noticed_at": BEGIN_US, "position": "departure/0/1/", "source": "departure", "partition": 0, "offset": 1, "reason": "undecodable",
        "detail": "d", "value": "",
    }
    rig.log.append(DEAD_LETTERS.topic, [Record(msgspec.json.encode(letter), key=b"departure/0/1/", partition=1)])
    prediction = {f.name: "{}" for f in PREDICTIONS.fields} | {"asked_at": BEGIN_US, "prediction_id": "p", "score": 0.5}
    rig.log.append(PREDICTIONS.topic, [Record(msgspec.json.encode(prediction), key=b"p", partition=0)])
    writer = rig.writer()
    drain(writer, rig.log, DEAD_LETTERS)
    drain(writer, rig.log, PREDICTIONS)
    assert rig.history.query("dead_letter_counts", {}) == [{"source": "departure", "reason": "undecodable", "letters": 1}]
    assert rig.history.query("prediction", {"prediction_id": "p"})[0]["score"] == 0.5


@pytest.mark.parametrize(
    ("when", "error"),
    [
        ("before", UnavailableError("down")),
        ("before", UnknownOutcomeError("COMMIT never arrived")),
        ("after", UnknownOutcomeError("COMMIT arrived, its answer did not")),
    ],
)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_batch_whose_outcome_is_bad_or_unknown_is_neither_lost_nor_doubled(rig: Rig, when: str, error: Exception, at: int) -> None:
    rig.produce(10)
    writer = rig.writer({at: (when, error)})
    drain(writer, rig.log)
    rig.produce(10, 10)
    errors = drain(writer, rig.log)
    assert rig.notes() == notes(20)
    assert errors == (1 if at == 2 else 0)
    assert rig.value("featureflow_history_failures_total", error=type(error).__name__) == 1
    assert writer.status().error == ""


def test_a_writer_whose_offset_was_moved_goes_to_where_history_stands(rig: Rig) -> None:
    """A zombie: another writer has written its partition on while it slept."""
    rig.produce(10)
    zombie = rig.writer()
    zombie.open()
    zombie.step(timeout_s=0)
    zombie.step(timeout_s=0)
    rig.produce(10, 10)
    other = HistoryWriter(rig.log, rig.history, PROJECT, rig.clock, HistoryMetrics(CollectorRegistry()), group="other")
    drain(other, rig.log)
    rig.produce(10, 20)
    drain(zombie, rig.log)
    assert rig.notes() == notes(30)
    assert rig.value("featureflow_history_conflicts_total", source="departure") == 2


def test_while_the_database_is_away_it_stays_in_the_group_and_says_so(rig: Rig) -> None:
    rig.produce(4)
    writer = rig.writer({n: ("before", UnavailableError("down")) for n in range(6)})
    writer.open()
    writer.step(timeout_s=0)
    for _ in range(3):
        with pytest.raises(UnavailableError):
            writer.step(timeout_s=0)
    assert (writer.status().ready, writer.status().error) == (False, "down")
    assert rig.value("featureflow_history_up") == 0
    drain(writer, rig.log)
    assert rig.notes() == notes(4)
    assert rig.value("featureflow_history_up") == 1


def test_a_partition_that_history_never_saw_begins_at_the_logs_beginning(rig: Rig) -> None:
    rig.produce(10)
    rig.log.delete_before(DEPARTURE.topic, 0, 3)
    drain(rig.writer(), rig.log)
    assert rig.history.extents("departure") == {0: Extent(3, 5), 1: Extent(0, 5)}
    assert rig.notes() == ["n6", "n8", *notes(10)[5:]]


def test_events_deleted_before_history_had_them_stop_it_loudly(rig: Rig) -> None:
    rig.produce(10)
    drain(rig.writer(), rig.log)
    rig.produce(10, 10)
    rig.log.delete_before(DEPARTURE.topic, 1, 8)
    writer = rig.writer()
    with pytest.raises(OffsetOutOfRangeError, match="departure/1 stands at 5, but the log begins at 8: 3 events were deleted"):
        drain(writer, rig.log)


def test_events_deleted_under_a_reading_writer_stop_it_and_nothing_is_said_of_rebuilding(rig: Rig) -> None:
    rig.produce(10)
    writer = rig.writer()
    drain(writer, rig.log)
    rig.produce(10, 10)
    rig.log.delete_before(DEPARTURE.topic, 1, 8)
    with pytest.raises(OffsetOutOfRangeError, match="before history had them: lengthen the retention") as caught:
        drain(writer, rig.log)
    assert "rebuild" not in str(caught.value)


def test_a_topic_that_was_created_again_or_truncated_stops_it_loudly(rig: Rig) -> None:
    rig.produce(10)
    drain(rig.writer(), rig.log)
    state = rig.log.topic(DEPARTURE.topic)
    row = {"source": "departure", "topic": DEPARTURE.topic, "topic_id": state.topic_id, "partitions": 2}
    rig.history.execute([Statement("record_topic", row)])
    rig.log.delete_topic(DEPARTURE.topic)
    rig.log.ensure_topic(DEPARTURE.topic, 2)
    with pytest.raises(LogError, match="deleted and created again.*Give the event a new name, and a topic with a new name"):
        drain(rig.writer(), rig.log)
    rig.history.execute([Statement("forget_topic", {"source": "departure"})])
    with pytest.raises(LogError, match="history holds it up to .* was truncated.*Give the event a new name, and a topic with a new name"):
        drain(rig.writer(), rig.log)


@pytest.mark.parametrize("longer", [False, True])
def test_a_topic_that_is_created_again_under_a_reading_writer_stops_it_before_its_records_are_history(rig: Rig, longer: bool) -> None:
    rig.produce(10)
    writer = rig.writer()
    drain(writer, rig.log)
    rig.log.delete_topic(DEPARTURE.topic)
    rig.log.ensure_topic(DEPARTURE.topic, 2)
    rig.clock.advance(100_000)
    rig.produce(30 if longer else 4, 100)                      # others, from offset 0 on
    with pytest.raises(LogError, match="deleted and created again.*Give the event a new name, and a topic with a new name"):
        writer.step(timeout_s=0)
    assert rig.notes() == notes(10)
    assert rig.history.offsets("departure") == {0: 5, 1: 5}


def test_a_topic_that_is_created_again_is_noticed_while_nothing_comes(rig: Rig) -> None:
    rig.produce(10)
    writer = rig.writer()
    drain(writer, rig.log)
    rig.log.delete_topic(DEPARTURE.topic)
    rig.log.ensure_topic(DEPARTURE.topic, 2)
    rig.produce(10, 100)                                       # as many as there were
    rig.clock.advance(5_000_000)
    with pytest.raises(LogError, match="deleted and created again"):
        writer.step(timeout_s=0)
    assert rig.notes() == notes(10)


def test_run_ends_with_the_batch_in_hand_when_it_is_told_to_stop(rig: Rig) -> None:
    rig.produce(10)
    stop = threading.Event()
    writer = rig.writer()
    append: Callable[..., None] = rig.history.append

    def stop_after(*args: Any) -> None:
        append(*args)
        stop.set()

    rig.history.append = stop_after      # type: ignore[method-assign]  # SIGTERM arrives during the transaction
    writer.run(stop)
    assert len(rig.notes()) == 10, "both batches of the step were finished"
    assert rig.log.advisory["featureflow.default.history"][Partition("departure", 0)] == 5
    assert writer.status().error == "stopped"


def test_run_waits_for_a_database_that_comes_back(rig: Rig) -> None:
    rig.produce(10)
    stop = threading.Event()
    faults: dict[int, tuple[str, Exception]] = {0: ("before", UnavailableError("down")), 2: ("after", UnknownOutcomeError("lost"))}
    writer = rig.writer(faults)
    thread = threading.Thread(target=writer.run, args=(stop,))
    thread.start()
    while len(rig.notes()) < 10:
        assert thread.is_alive()
    stop.set()
    thread.join()
    assert rig.notes() == notes(10)


def test_offset_and_lag_are_shown_of_partitions_that_are_held_and_of_no_other(rig: Rig) -> None:
    rig.produce(10)
    writer, registry = rig.writer(), rig.registry

    def shown(name: str) -> float | None:
        return registry.get_sample_value(f"featureflow_history_{name}", {"source": "departure", "partition": "0"})

    drain(writer, rig.log)
    rig.clock.advance(5_000_000)
    writer.step(timeout_s=0)
    assert (shown("offset"), shown("lag")) == (5.0, 0.0)
    successor = rig.writer()                       # has all partitions from now on
    successor.open()
    writer.step(timeout_s=0)
    assert (shown("offset"), shown("lag")) == (None, None), "another tells them now"
    successor.close()
    drain(writer, rig.log)
    assert shown("offset") == 5.0
