"""A worker with its log and store in memory, a clock that is told, and what the log says its state should be."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence

import numpy as np
from prometheus_client import CollectorRegistry

from featureflow.clock import ManualClock
from featureflow.define.spec import (
    Aggregation,
    Call,
    Column,
    Entity,
    Field,
    Literal,
    Project,
    Source,
    View,
    Window,
    with_version,
)
from featureflow.define.system import DEAD_LETTERS
from featureflow.errors import UnavailableError, UnknownOutcomeError
from featureflow.ingest.decode import Decoder
from featureflow.ingest.failpoint import Failpoint, unarmed
from featureflow.ingest.metrics import WorkerMetrics
from featureflow.ingest.worker import Worker
from featureflow.kernel import state
from featureflow.kernel.finalize import Values, ViewKernel
from featureflow.kernel.replay import recompute
from featureflow.store.keys import state_key
from featureflow.store.log.memory import MemoryLog
from featureflow.store.log.protocol import Log, Partition, Record
from featureflow.store.online.memory import MemoryOnlineStore
from featureflow.store.online.protocol import Claim, Commit, Committed, OffsetRecord, OnlineStore, Refused
from featureflow.store.registry import partitions_document

SECOND_US = 1_000_000
START_US = 1_700_000_000 * SECOND_US
WINDOWS = (
    Window(kind="sliding", length_us=60 * SECOND_US, text="1m"),
    Window(kind="sliding", length_us=3_600 * SECOND_US, text="1h"),
    Window(kind="tumbling", length_us=600 * SECOND_US, text="10m"),
)
TRIP = Source(
    name="trip",
    topic="trips",
    time_field="at",
    disorder_us=30 * SECOND_US,
    future_us=10 * SECOND_US,
    keyed_by="rider",
    fields=(
        Field(name="at", type="datetime"),
        Field(name="rider", type="str", entity="rider"),
        Field(name="zone", type="int", entity="zone", nullable=True),
        Field(name="fare", type="float", nullable=True),
    ),
)
_FARE = Column("fare")


def _view(name: str, entity: str, *aggregations: Aggregation, ttl_us: int | None = None) -> View:
    view = View(name=name, entity=entity, join_key=entity, keys={"trip": entity}, aggregations=aggregations, ttl_us=ttl_us)
    return with_version(view, {"trip": TRIP})


def _of(op: str, windows: tuple[Window, ...] = WINDOWS, **more: object) -> Aggregation:
    settings = {"value": None if op == "count" else _FARE, "where": None, **more}
    return Aggregation(name=op, op=op, source="trip", windows=windows, **settings)  # type: ignore[arg-type]  # settings by name


RIDER = _view("rider_now", "rider", _of("count"), _of("sum"), _of("max"), _of("stddev"))
ZONE = _view(
    "zone_now",
    "zone",
    _of("count", where=Call("gt", (_FARE, Literal(10.0)))),
    _of("last_n", (Window(kind="lifetime", length_us=0, text="lifetime"),), size=3, bare=True),
    ttl_us=86_400 * SECOND_US,
)
PROJECT = Project(
    entities=(Entity(name="rider", type="str"), Entity(name="zone", type="int")), sources=(TRIP,), views=(RIDER, ZONE)
)
RIDERS = ("ada", "bob:{0}", "c\r\nd", "é*")
ZONES = (7, -3)


class TroubledStore:
    """An online store behind a bad network, which may also lose its last second.

    ``rate`` is the chance of each kind of trouble at each call. A commit whose reply was lost may still arrive, later.
    """

    def __init__(self, store: MemoryOnlineStore, luck: random.Random, rate: float = 0.0) -> None:
        self.store, self.luck, self.rate = store, luck, rate
        self.flying: list[Commit] = []
        self.durable: list[MemoryOnlineStore] = []
        self.troubles = 0

    def _trouble(self) -> bool:
        struck = self.luck.random() < self.rate
        self.troubles += struck
        return struck

    def _reach(self) -> None:
        if self._trouble():
            raise UnavailableError("the network is down; see online.url")
        if self.flying and self._trouble():
            self.store.commit(self.flying.pop(self.luck.randrange(len(self.flying))))
        if self.durable and self.luck.random() < self.rate / 4:
            self.troubles += 1
            self.store = copy.deepcopy(self.luck.choice(self.durable))

    def commit(self, commit: Commit) -> Committed | Refused:
        self._reach()
        if self._trouble():
            self.flying.append(commit)
            raise UnknownOutcomeError("lost on the way there; see online.url")
        answer = self.store.commit(commit)
        if self.luck.random() < 0.2:
            self.durable = [*self.durable[-3:], copy.deepcopy(self.store)]
        if self._trouble():
            if self._trouble():
                self.flying.append(commit)
            raise UnknownOutcomeError("lost on the way back; see online.url")
        return answer

    def create_offsets(self, view_id: str, source: str, topic_id: str, offsets: dict[int, int]) -> list[int]:
        return self.store.create_offsets(view_id, source, topic_id, offsets)

    def drop_view(self, view_id: str) -> int:
        return self.store.drop_view(view_id)

    def claim(self, source: str, partition: int, view_ids: Sequence[str], topic_id: str) -> Claim:
        self._reach()
        return self.store.claim(source, partition, view_ids, topic_id)

    def offsets(self, source: str, partition: int, view_ids: Sequence[str]) -> dict[str, OffsetRecord | None]:
        self._reach()
        return self.store.offsets(source, partition, view_ids)

    def visible(self, view_id: str, source: str, partition: int) -> list[tuple[int, int]]:
        return self.store.visible(view_id, source, partition)

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self._reach()
        return self.store.read(keys)

    def put_meta(self, name: str, value: bytes) -> None:
        self.store.put_meta(name, value)

    def get_meta(self, name: str) -> bytes | None:
        return self.store.get_meta(name)

    def check(self) -> list[str]:
        return self.store.check()

    def ping(self) -> str:
        return self.store.ping()

    def close(self) -> None:
        self.store.close()


class Rig:
    """``partitions`` of the topic ``trips``, all views applied from offset 0.

    ``online_class`` puts such a store behind a bad network (``TroubledStore``).
    """

    def __init__(
        self,
        partitions: int = 2,
        *,
        log: Log | None = None,
        online: OnlineStore | None = None,
        online_class: type[MemoryOnlineStore] | None = None,
        luck: random.Random | None = None,
        seed: int = 0,
    ) -> None:
        self.clock = ManualClock(START_US)
        self.luck = random.Random(seed)
        self.memory_log = MemoryLog(self.clock)
        self.log: Log = log or self.memory_log
        self.online: OnlineStore = online or MemoryOnlineStore(self.clock)
        if online_class is not None:
            self.online = TroubledStore(online_class(self.clock), luck or self.luck)
        self.partitions = partitions
        self.log.ensure_topic(TRIP.topic, partitions)
        self.log.ensure_topic(DEAD_LETTERS.topic, 1)
        self.online.put_meta(partitions_document(TRIP.name), str(partitions).encode())
        for view in PROJECT.views:
            self.apply(view)

    def apply(self, view: View) -> None:
        topic_id = self.log.topic(TRIP.topic).topic_id
        self.online.create_offsets(view.id, TRIP.name, topic_id, dict.fromkeys(range(self.partitions), 0))

    def worker(
        self, *, project: Project = PROJECT, commit_rows: int = 8, failpoint: Failpoint = unarmed, registry: CollectorRegistry | None = None
    ) -> Worker:
        metrics = WorkerMetrics(registry or CollectorRegistry())
        return Worker(
            self.log, self.online, project, self.clock, metrics,
            commit_rows=commit_rows, failpoint=failpoint, slab_bytes=200_000,
        )

    # -- events --------------------------------------------------------------------------------------------------------

    def produce(self, count: int, *, bad: float = 0.0) -> None:
        """Random trips, some late, some from the future; a share of ``bad`` records."""
        self.append([self.trip() if self.luck.random() >= bad else self.poison() for _ in range(count)])

    def append(self, records: Sequence[Record]) -> None:
        for record in records:
            self.clock.advance(self.luck.choice((0, 0, 1_000, 700_000)))
            self.log.append(TRIP.topic, [record])

    def trip(self, **fields: object) -> Record:
        ago_us = self.luck.choice((0, 0, 0, self.luck.randrange(90 * SECOND_US), 4_000 * SECOND_US, -60 * SECOND_US))
        values = {
            "at": self.clock.now_us() - ago_us,
            "rider": self.luck.choice(RIDERS),
            "zone": self.luck.choice((*ZONES, None)),
            "fare": self.luck.choice((None, 0.1, 1e-9, 12.5, self.luck.random() * 1e6, -3.0)),
            **fields,
        }
        key = str(values["rider"]).encode()
        partition = sum(key) % self.partitions
        return Record(json.dumps(values).encode(), key=key, partition=partition)

    def poison(self) -> Record:
        value = self.luck.choice((b"{", b"[]", b'{"at": 1}', b'{"at": "x", "rider": "ada"}', b"\xff"))
        return Record(value, key=b"ada", partition=self.luck.randrange(self.partitions))

    # -- running -------------------------------------------------------------------------------------------------------

    def drain(self, worker: Worker, *, most_steps: int = 2_000) -> None:
        """Step until every partition is folded to its end, moving the clock so that waits pass."""
        end = self.log.topic(TRIP.topic).end
        for _ in range(most_steps):
            worker.step(timeout_s=0.0, wait=lambda seconds: None)
            self.clock.advance(300_000)
            at = {s.partition: s.offset for s in worker.status().partitions}
            if all(at.get(partition, -1) >= end[partition] for partition in range(self.partitions)):
                return
        raise AssertionError(f"not drained in {most_steps} steps: {worker.status()}, the log ends at {end}")

    # -- what is and what should be ------------------------------------------------------------------------------------

    def actual(self, view: View, q_us: int) -> Values:
        """The view's values of every entity, from the store."""
        kernel = ViewKernel(view, {"trip": TRIP})
        layout, ids = kernel.layouts["trip"], _ids(view)
        owners: list[int | None] = [None] if layout.keyed else list(range(self.partitions))
        blobs = [
            self.online.read([state_key(layout.entity, entity_id, view.id, "trip", owner) for owner in owners])
            for entity_id in ids
        ]
        return kernel.finalize({"trip": state.parse(layout, blobs)}, np.full(len(ids), q_us, np.int64))

    def expected(self, view: View, q_us: int, applied: dict[int, int] | None = None) -> Values:
        """The same from the log's records."""
        kernel, ids = ViewKernel(view, {"trip": TRIP}), _ids(view)
        upto: dict[int, int] = applied or self.log.topic(TRIP.topic).end
        return recompute(
            kernel, {"trip": TRIP}, {"trip": self.events()}, ids, np.full(len(ids), q_us, np.int64), {"trip": upto}
        )

    def events(self) -> list:  # type: ignore[type-arg]  # of Events
        consumer = self.log.consumer("reading", {"trip": TRIP.topic})
        decoder = Decoder(TRIP)
        found = {p: [] for p in range(self.partitions)}  # type: ignore[var-annotated]  # of batches
        end = self.log.topic(TRIP.topic).end
        for p in consumer.poll(timeout_s=5, max_records=1, max_bytes=1).assignment.assigned:
            consumer.seek(p, 0)
        at = dict.fromkeys(end, 0)
        while at != end:
            for batch in consumer.poll(timeout_s=5, max_records=100_000, max_bytes=1 << 30).batches:
                found[batch.partition].append(batch)
                at[batch.partition] = batch.next
        consumer.close()
        merged = []
        for batches in found.values():
            for batch in batches[:1]:
                assert len(batches) == 1
                merged.append(decoder.decode(batch).events)
        return merged

    def agrees(self, q_us: int | None = None) -> bool:
        """Whether every value of every view is, to the bit, what the log says."""
        q_us = q_us or self.clock.now_us() + 60 * SECOND_US
        return all(_bytes(self.actual(view, q_us)) == _bytes(self.expected(view, q_us)) for view in PROJECT.views)

    def letters(self) -> list[dict[str, object]]:
        """What stands on the dead-letter topic."""
        consumer = self.log.consumer("letters", {"dead": DEAD_LETTERS.topic})
        consumer.poll(timeout_s=5, max_records=1, max_bytes=1)
        consumer.seek(Partition("dead", 0), 0)
        found: list[dict[str, object]] = []
        end = self.log.topic(DEAD_LETTERS.topic).end[0]
        while len(found) < end:
            for batch in consumer.poll(timeout_s=5, max_records=100_000, max_bytes=1 << 30).batches:
                found += [json.loads(value) for value in batch.values if value]
        consumer.close()
        return found


def _ids(view: View) -> Sequence[str | int]:
    return RIDERS if view.entity == "rider" else ZONES


def _bytes(values: Values) -> tuple[bytes, bytes, bytes]:
    return values.values.tobytes(), values.statuses.tobytes(), values.event_times_us.tobytes()
