"""The prediction log: never in a request's way, and never silently short."""

from __future__ import annotations

import base64
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from processes import until

from featureflow.clock import ManualClock
from featureflow.define import system
from featureflow.define.spec import DEFAULT_PROJECT
from featureflow.errors import UnavailableError
from featureflow.kernel.decode import Decoder
from featureflow.serve import prediction_log
from featureflow.serve.prediction_log import (
    FEW_ROWS,
    GATHER_S,
    LOOP_BYTES,
    REMEMBERED,
    Applied,
    PredictionLog,
    Predictions,
    Written,
    encode,
)
from featureflow.serve.request import Row
from featureflow.store.log.memory import MemoryLog
from featureflow.store.log.protocol import Record

PREDICTIONS = system.predictions(DEFAULT_PROJECT)

NASTY = 'a"b\\c\n\u2028é:{}\r\0'


def predictions(n: int = 2, trace: str = "") -> Predictions:
    return Predictions(
        asked_at_us=1_700_000_000_123_456,
        model="tip",
        version="3",
        variant="int8",
        provider="cpu",
        rows=[Row({"rider": NASTY, "zone": i}, {"note": NASTY}, (NASTY, i), ()) for i in range(n)],
        prediction_ids=[f"p{i}" for i in range(n)],
        request_ids=[f'r"{i}' for i in range(n)],
        traces=[trace] * n,
        scores=[0.1 * i for i in range(n)],
        views={"rider_now": "v1"},
        applied=[Applied("rider_now", [{"trip": {0: 5, 1: 7}}, {"trip": {0: 6}}], [i % 2 for i in range(n)])],
        features=np.array([[i, np.nan, -0.5] for i in range(n)]),
        statuses=np.array([[0, 1, 4]] * n, np.int8),
        degraded=["rider_now:stale"],
    )


class CountingLog(MemoryLog):
    """A log in memory that can be told to be down, and to hold its callers."""

    def __init__(self) -> None:
        super().__init__(ManualClock(0))
        self.ensure_topic(PREDICTIONS.topic, 1)
        self.down = 0
        self.door = threading.Event()
        self.door.set()
        self.calls = 0

    def append(self, topic: str, records: Sequence[Record]) -> list[tuple[int, int]]:
        self.door.wait()
        self.calls += 1
        if self.down:
            self.down -= 1
            raise UnavailableError("the log is down; see log.url")
        return super().append(topic, records)

    def count(self) -> int:
        return self.topic(PREDICTIONS.topic).end[0]


def logging(
    log: CountingLog, capacity_rows: int = 100, capacity_bytes: int = 1 << 20, gather_s: float = GATHER_S
) -> tuple[PredictionLog, Counter[str], list[int]]:
    dropped: Counter[str] = Counter()
    logged: list[int] = []
    return (
        PredictionLog(
            log, PREDICTIONS.topic, capacity_rows=capacity_rows, capacity_bytes=capacity_bytes,
            dropped=lambda r, n: dropped.update({r: n}), logged=logged.append, gather_s=gather_s,
        ),
        dropped,
        logged,
    )


def test_a_record_is_an_event_of_the_predictions_source_whatever_the_ids_hold() -> None:
    parent = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    records = encode(predictions(trace=parent))
    decoded = Decoder(PREDICTIONS).decode([r.value for r in records], [r.key for r in records])
    assert not decoded.refused
    columns = decoded.events.columns
    assert decoded.events.times_us.tolist() == [1_700_000_000_123_456] * 2
    assert columns["prediction_id"].tolist() == ["p0", "p1"]
    assert columns["request_id"].tolist() == ['r"0', 'r"1']
    assert msgspec.json.decode(columns["entities"][1]) == {"rider": NASTY, "zone": 1}
    assert msgspec.json.decode(columns["context"][0]) == {"note": NASTY}
    applied = [{"rider_now": {"trip": {"0": 5, "1": 7}}}, {"rider_now": {"trip": {"0": 6}}}]
    assert [msgspec.json.decode(text) for text in columns["applied"]] == applied
    assert (
        np.frombuffer(base64.b64decode(columns["features"][1]), "<f8").tobytes()
        == np.array([1, np.nan, -0.5]).tobytes()
    )
    assert columns["statuses"].tolist() == ["pdm", "pdm"]
    assert records[0].headers == (("traceparent", parent.encode()),)


def test_what_is_offered_is_appended_in_order_and_closing_waits_for_it() -> None:
    log = CountingLog()
    journal, dropped, logged = logging(log)
    journal.start()
    for _ in range(5):
        assert journal.offer(predictions())
    journal.close(60.0)
    assert (log.count(), sum(logged), dropped, journal.waiting) == (10, 10, {}, 0)


def test_few_are_appended_with_those_that_come_after_them_and_many_at_once() -> None:
    log = CountingLog()
    journal, _, logged = logging(log, capacity_rows=2 * FEW_ROWS, gather_s=120.0)
    journal.offer(predictions(FEW_ROWS))
    journal.start()
    until(lambda: log.calls == 1, "so many are appended before the thread has waited")
    journal.close(60.0)
    few, _, logged = logging(log := CountingLog(), gather_s=120.0)
    few.offer(predictions())
    few.start()
    time.sleep(0.2)                        # it has seen them by now
    few.offer(predictions())
    few.close(60.0)
    assert (log.calls, logged) == (1, [4])


def test_what_does_not_fit_the_queue_is_dropped_and_counted_at_once() -> None:
    log = CountingLog()
    log.door.clear()
    journal, dropped, _ = logging(log, capacity_rows=5)
    journal.start()
    assert [journal.offer(predictions()) for _ in range(4)] == [True, True, False, False]
    assert dropped == {"queue_full": 4}
    log.door.set()
    journal.close(60.0)
    assert log.count() == 4


def test_the_queue_is_bounded_in_bytes_too_and_they_are_counted_until_they_are_appended() -> None:
    log = CountingLog()
    log.door.clear()
    large = replace(predictions(), row_bytes=40_000, features=np.zeros((2, 1_000)))
    assert large.bytes == 2 * 40_000 + 16_000 + 6
    journal, dropped, _ = logging(log, capacity_bytes=200_000)
    journal.start()
    assert [journal.offer(large) for _ in range(4)] == [True, True, False, False]
    assert dropped == {"queue_full": 4}
    log.door.set()
    until(lambda: journal.waiting == 0, "they are appended")
    assert [journal.offer(large) for _ in range(2)] == [True, True]
    journal.close(60.0)
    assert (log.count(), journal.waiting) == (8, 0)


def test_a_log_that_is_down_is_tried_again_and_nothing_is_lost() -> None:
    log = CountingLog()
    log.down = 1
    journal, dropped, _ = logging(log)
    journal.start()
    journal.offer(predictions())
    while log.calls < 2:
        threading.Event().wait(0.001)
    journal.close(60.0)
    assert (log.count(), dropped, journal.problem) == (2, {}, None)


def test_what_cannot_be_appended_before_the_end_is_counted() -> None:
    log = CountingLog()
    log.down = 1_000
    journal, dropped, _ = logging(log)
    journal.start()
    journal.offer(predictions())
    journal.close(60.0)
    assert dropped == {"shutdown": 2}
    assert journal.problem is not None
    assert "log.url" in journal.problem


def test_a_record_beyond_the_logs_bound_is_dropped_and_the_others_are_not() -> None:
    log = CountingLog()
    journal, dropped, _ = logging(log)
    big = predictions()
    big.rows[0].context = {"note": "x" * 70_000}
    journal.start()
    journal.offer(big)
    journal.close(60.0)
    assert (log.count(), dropped) == (1, {"too_large": 1})


def test_what_is_offered_is_encoded_where_that_is_asked_for_and_the_rest_by_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded_by: list[tuple[str, bool]] = []

    def encoding(offered: Predictions, written: Written) -> list[Record]:
        encoded_by.append((offered.model, threading.current_thread() is threading.main_thread()))
        return encode(offered, written)

    monkeypatch.setattr(prediction_log, "encode", encoding)
    log = CountingLog()
    journal, dropped, _ = logging(log, capacity_bytes=10 * LOOP_BYTES)
    many, broken, big = (replace(predictions(), model=name) for name in ("many", "broken", "big"))
    many = replace(many, row_bytes=LOOP_BYTES)
    broken.rows[1].entities = object()
    big.rows[0].context = {"note": "x" * 70_000}
    for one in (predictions(), many, broken, big):
        assert journal.offer(one)
    journal.encode()
    journal.offer(replace(predictions(), model="late"))
    journal.start()
    journal.close(60.0)
    assert encoded_by == [("tip", True), ("broken", True), ("big", True), ("many", False), ("late", False)]
    assert (log.count(), dropped, journal.waiting) == (2 + 2 + 0 + 1 + 2, {"unencodable": 2, "too_large": 1}, 0)


def test_closing_waits_for_what_is_being_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, door = threading.Event(), threading.Event()

    def encoding(offered: Predictions, written: Written) -> list[Record]:
        begun.set()
        door.wait()
        return encode(offered, written)

    monkeypatch.setattr(prediction_log, "encode", encoding)
    log = CountingLog()
    journal, dropped, _ = logging(log)
    journal.offer(predictions())
    loop = threading.Thread(target=journal.encode)
    loop.start()
    assert begun.wait(60.0)
    journal.start()
    journal.close(0.05)
    assert dropped == {"shutdown": 2}, "it had no time"
    door.set()
    loop.join()
    until(lambda: log.count() == 2, "it is appended")


def test_offsets_are_written_again_as_soon_as_they_are_others() -> None:
    written, standing = Written(), {"trip": {0: 5}}
    assert written.of("a", standing) == written.of("a", standing) == b'\\"a\\":{\\"trip\\":{\\"0\\":5}}'
    assert written.of("b", standing).startswith(b'\\"b\\"')
    assert b"6" in written.of("a", {"trip": {0: 6}})
    for offset in range(REMEMBERED + 10):
        assert str(offset).encode() in written.of("a", {"trip": {0: offset}})


def test_predictions_that_cannot_be_encoded_are_dropped_and_those_after_them_are_logged() -> None:
    log = CountingLog()
    journal, dropped, _ = logging(log)
    broken = predictions()
    broken.rows[1].entities = object()
    journal.start()
    for one in (broken, predictions()):
        assert journal.offer(one)
    journal.close(10.0)
    assert (log.count(), dropped, journal.waiting) == (2, {"unencodable": 2}, 0)
