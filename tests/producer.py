"""Rides and tips as producers send them: in disorder, twice, late, from the future, and some that are no events at all."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from world import SECOND_US, World

from featureflow import limits
from featureflow.errors import FeatureFlowError
from featureflow.store.log.protocol import Record

RIDERS = ("ada", "bob:{0}", "c\r\nd", "é*", "'; --", *(f"r{n}" for n in range(30)))
SOURCES = ("ride", "tip")
PAYMENTS = (None, *("card", "cash", "voucher", "'; --", "bébé 𝄞", "") * 7, "more than twelve bytes")
RESENT = 0.03                              # of the records: the same bytes again, a while later
KEPT = 500                                 # records that may be sent again


@dataclass
class Producer:
    """Appends to both topics of a world until it is told to end.

    ``bad`` are the values that are no events, ``sent`` what the log said that it has, and ``unknown`` counts appends without an answer:
    the log may have their records or not. ``size`` bounds an append, ``pause_s`` the wait after it.
    """

    world: World
    luck: random.Random
    size: int = 24
    pause_s: float = 0.1
    poison: float = 0.01
    again: float = RESENT
    riders: tuple[str, ...] = RIDERS
    bad: set[bytes] = field(default_factory=set)
    sent: dict[tuple[str, int, int], bytes | None] = field(default_factory=dict)
    resent: int = 0
    unknown: int = 0
    problem: list[BaseException] = field(default_factory=list)
    _recent: deque[tuple[str, Record]] = field(default_factory=lambda: deque(maxlen=KEPT))

    def run(self, stop: threading.Event) -> None:
        try:
            while not stop.wait(self.luck.uniform(0.0, self.pause_s)):
                for source in SOURCES:
                    self.append(source, self.luck.randrange(1, self.size + 1))
        except BaseException as error:
            self.problem.append(error)

    def append(self, source: str, count: int) -> None:
        records = [self._again(source) or self.record(source) for _ in range(count)]
        try:
            places = self.world.context.log.append(self.world.topic_of(source), records)
        except FeatureFlowError:
            self.unknown += 1
            return
        self.sent |= {(source, *place): record.value for place, record in zip(places, records, strict=True)}

    def record(self, source: str) -> Record:
        luck, now_us = self.luck, time.time_ns() // 1000
        late_us = luck.choice((0, 0, luck.randrange(50 * SECOND_US), luck.randrange(90 * SECOND_US), 4_000 * SECOND_US, -400 * SECOND_US))
        rider = luck.choice(self.riders)
        values: dict[str, object] = {"at": now_us - (late_us if luck.random() < 0.3 else 0), "rider": rider}
        if source == "ride":               # what a definitions file does not declare is ignored
            values |= {"event_id": f"{luck.getrandbits(60):x}" if luck.random() < 0.95 else None, "payment": luck.choice(PAYMENTS)}
            values |= {"zone": luck.choice((1, 2, -3, None)), "cash": luck.random() < 0.5}
            values |= {"fare": luck.choice((None, 0.1, 1e-9, luck.random() * 1e6, -3.0, round(luck.gammavariate(2, 9), 2)))}
        else:
            values |= {"amount": round(luck.gammavariate(1, 3), 2)}
        value = json.dumps(values).encode()
        if luck.random() < self.poison:
            value = self._spoilt(values)
            self.bad.add(value)
        record = Record(value, rider.encode() if source == "ride" else None)
        self._recent.append((source, record))
        return record

    def _again(self, source: str) -> Record | None:
        """A record that was sent before, byte for byte and with the id of its event: to the log it is another one."""
        if self._recent and self.luck.random() < self.again:
            of, record = self.luck.choice(self._recent)
            if of == source:
                self.resent += 1
                return record
        return None

    def _spoilt(self, values: dict[str, object]) -> bytes:
        """No event, and told from every other by the topic's name and a number in it."""
        mark = f"{self.world.topic} {self.luck.random()}"
        match self.luck.randrange(6):
            case 0:
                return json.dumps({**values, "rider": [mark]}).encode()
            case 1:
                return json.dumps({**values, "note": mark}).encode()[:-1]
            case 2:
                return json.dumps({"rider": values["rider"], "note": mark}).encode()
            case 3:
                return json.dumps({**values, "note": mark}).encode() + b"\xff"
            case 4:
                return json.dumps({**values, "note": mark + "x" * limits.RECORD_BYTES}).encode()
            case _:
                return json.dumps([mark]).encode()
