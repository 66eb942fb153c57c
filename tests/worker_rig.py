"""A worker with its log and store in memory, a clock that is told, and what the log says its state should be."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from prometheus_client import CollectorRegistry
from replay import recompute
from trips import LIFETIME
from troubled_store import TroubledStore

from featureflow import limits
from featureflow.clock import ManualClock
from featureflow.define import system
from featureflow.define.spec import (
    DEFAULT_PROJECT,
    Aggregation,
    Call,
    Column,
    Entity,
    Expr,
    Field,
    Literal,
    Project,
    Source,
    View,
    Window,
)
from featureflow.define.version import with_version
from featureflow.ingest.decode import Decoder
from featureflow.ingest.failpoint import Failpoint, unarmed
from featureflow.ingest.metrics import WorkerMetrics
from featureflow.ingest.worker import Worker
from featureflow.kernel import state
from featureflow.kernel.events import Events
from featureflow.kernel.finalize import Values, ViewKernel
from featureflow.store.history.protocol import HistoryStore
from featureflow.store.keys import Keys
from featureflow.store.log.memory import MemoryLog
from featureflow.store.log.protocol import Batch, Log, Record
from featureflow.store.mirror import BUCKETS_DOCUMENT, partitions_document
from featureflow.store.online.memory import MemoryOnlineStore
from featureflow.store.online.protocol import (
    OffsetRecord,
    OnlineStore,
)
from featureflow.tracing import Tracer

KEYS = Keys(DEFAULT_PROJECT)
SKETCHED = ("approx_distinct", "approx_quantile", "top_k", "top_k_count")
SECOND_US = 1_000_000
START_US = 1_700_000_000 * SECOND_US
WINDOWS = (
    Window(kind="sliding", length_us=60 * SECOND_US, text="1m"),
    Window(kind="sliding", length_us=3_600 * SECOND_US, text="1h"),
    Window(kind="tumbling", length_us=600 * SECOND_US, text="10m"),
)
RIDERS = ("ada", "bob:{0}", "c\r\nd", "é*")
ZONES = (7, -3)
_FARE = Column("fare")


def project_on(topic: str) -> Project:
    """One source on this topic, keyed by the rider, and a view by rider and one by zone (which is in every partition)."""
    trip = Source(
        name="trip",
        topic=topic,
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
    costly = Call("gt", (_FARE, Literal(10.0)))
    rider = View(
        name="rider_now",
        entity="rider",
        join_key="rider",
        keys={"trip": "rider"},
        aggregations=(_of("count"), _of("sum"), _of("max"), _of("stddev")),
    )
    zone = View(
        name="zone_now",
        entity="zone",
        join_key="zone",
        keys={"trip": "zone"},
        aggregations=(_of("count", where=costly), _of("last_n", (LIFETIME,), size=3)),
        ttl_us=86_400 * SECOND_US,
    )
    views = tuple(with_version(view, {"trip": trip}) for view in (rider, zone))
    entities = (Entity(name="rider", type="str"), Entity(name="zone", type="int"))
    return Project(entities=entities, sources=(trip,), views=views)


def _of(op: str, windows: tuple[Window, ...] = WINDOWS, *, where: Expr | None = None, size: int = 1) -> Aggregation:
    value = None if op == "count" else _FARE
    return Aggregation(
        name=op, op=op, source="trip", value=value, where=where, windows=windows, size=size, bare=op == "last_n",
        error=0.02 if op in SKETCHED else 0.0, q=0.5 if op == "approx_quantile" else -1.0,
    )


PROJECT = project_on("trips")
(TRIP,) = PROJECT.sources


def with_sketches(project: Project) -> Project:
    """The same, with an approximate aggregation of each kind in both views, beside the others."""
    views = []
    for view in project.views:
        windows = WINDOWS if view.entity == "rider" else (WINDOWS[1], LIFETIME)
        more = tuple(_of(op, windows, size=3 if op.startswith("top") else 1) for op in SKETCHED)
        changed = msgspec.structs.replace(view, aggregations=(*view.aggregations, *more))
        views.append(with_version(changed, {source.name: source for source in project.sources}))
    return msgspec.structs.replace(project, views=tuple(views))


def with_vector(numbers: int, window: Window = LIFETIME, *, publish: bool = False) -> Project:
    """The project, with a vector of so many numbers in each trip that has one, of which the rider's view keeps the last."""
    rider, zone = PROJECT.views
    trip = msgspec.structs.replace(TRIP, fields=(*TRIP.fields, Field(name="drift", type="vector", nullable=True, size=numbers)))
    last = Aggregation(name="drift", op="last", source="trip", value=Column("drift"), where=None, windows=(window,), vector=numbers)
    rider = msgspec.structs.replace(rider, aggregations=(*rider.aggregations, last), publish=publish)
    views = tuple(with_version(view, {"trip": trip}) for view in (rider, zone))
    return msgspec.structs.replace(PROJECT, sources=(trip,), views=views)


def replace_views(project: Project, *views: View) -> Project:
    return msgspec.structs.replace(project, views=views)


RIDER, ZONE = PROJECT.views
ALL_VIEWS = [view.id for view in PROJECT.views]


class Rig:
    """``partitions`` of the project's topic, all its views applied from offset 0. Everything in memory, unless given.

    ``online_class`` puts such a store behind a bad network (``TroubledStore``).
    """

    def __init__(
        self,
        partitions: int = 2,
        *,
        project: Project = PROJECT,
        log: Log | None = None,
        online: OnlineStore | None = None,
        online_class: type[MemoryOnlineStore] | None = None,
        luck: random.Random | None = None,
        seed: int = 0,
        clock: ManualClock | None = None,
        buckets: int = 1,
    ) -> None:
        self.clock = clock or ManualClock(START_US)
        self.luck = random.Random(seed)
        self.memory_log = MemoryLog(self.clock)
        self.log: Log = log or self.memory_log
        self.online: OnlineStore = online or MemoryOnlineStore(self.clock)
        if online_class is not None:
            self.online = TroubledStore(online_class(self.clock), luck or self.luck)
        self.project, (self.source,) = project, project.sources
        self._kernels: dict[str, ViewKernel] = {}
        self.partitions, self.buckets, self.keys = partitions, buckets, Keys(DEFAULT_PROJECT, buckets)
        self.log.ensure_topic(self.source.topic, partitions)
        self.log.ensure_topic(system.dead_letters(DEFAULT_PROJECT).topic, 1)
        self.online.put_meta(partitions_document(self.source.name), str(partitions).encode())
        self.online.put_meta(BUCKETS_DOCUMENT, str(buckets).encode())
        topic_id = self.log.topic(self.source.topic).topic_id
        for view in project.views:
            self.online.create_offsets(view.id, self.source.name, topic_id, dict.fromkeys(range(partitions), 0), buckets)

    def worker(
        self,
        *,
        project: Project | None = None,
        commit_rows: int = 8,
        poll_records: int = limits.POLL_RECORDS,
        failpoint: Failpoint = unarmed,
        registry: CollectorRegistry | None = None,
        tracer: Tracer | None = None,
        history: HistoryStore | None = None,
    ) -> Worker:
        metrics = WorkerMetrics(registry or CollectorRegistry())
        return Worker(
            self.log, self.online, project or self.project, self.clock, metrics,
            commit_rows=commit_rows, failpoint=failpoint, tracer=tracer, slab_bytes=200_000,
            poll_records=poll_records, history=history, buckets=self.buckets,
        )

    def started(self, **settings: Any) -> Worker:
        """A worker that has joined its group. ``settings``: as of ``worker``."""
        worker = self.worker(**settings)
        worker.open()
        return worker

    def at(self, view: View = RIDER) -> OffsetRecord:
        """The view's offset record of partition 0."""
        stored = self.online.offsets(self.source.name, 0, [view.id])[view.id]
        assert stored is not None
        return stored

    def rebuild(self, view: View) -> None:
        """As ``featureflow rebuild`` does."""
        topic_id = self.log.topic(self.source.topic).topic_id
        self.online.drop_view(view.id, for_good=False)
        self.online.create_offsets(view.id, self.source.name, topic_id, dict.fromkeys(range(self.partitions), 0), self.buckets)

    # -- events --------------------------------------------------------------------------------------------------------

    def produce(self, count: int, *, bad: float = 0.0) -> None:
        """Random trips, some late, some from the future; a share of ``bad`` records."""
        self.append([self.trip() if self.luck.random() >= bad else self.poison() for _ in range(count)])

    def append(self, records: Sequence[Record]) -> None:
        if self.log is self.memory_log:
            for record in records:
                self.clock.advance(self.luck.choice((0, 0, 1_000, 700_000)))
                self.log.append(self.source.topic, [record])
        else:
            self.log.append(self.source.topic, records)

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
        end = self.log.topic(self.source.topic).end
        for _ in range(most_steps):
            worker.step(timeout_s=0.0, wait=lambda seconds: None)
            self.clock.advance(300_000)
            at = {s.partition: s.offset for s in worker.status().partitions}
            if all(at.get(partition, -1) >= end[partition] for partition in range(self.partitions)):
                return
        raise AssertionError(f"not drained in {most_steps} steps: {worker.status()}, the log ends at {end}")

    def storm(self, begin: Callable[[], None], turns: int = 60) -> bool:
        """Turns of a worker and its rivals in bad weather, each begun by ``begin``, then a calm to catch up in.

        Whether every value is then what the log says. The store is a ``TroubledStore``, whose luck decides.
        """
        store = self.online
        assert isinstance(store, TroubledStore)
        luck, workers = store.luck, [self.started(commit_rows=store.luck.choice((1, 4, 30)))]
        store.rate = 0.08
        for _ in range(turns):
            begin()
            if luck.random() < 0.05:           # the group hands everything to a newcomer; the other hears later
                workers = [workers[-1], self.started(commit_rows=4)]
            if luck.random() < 0.05:           # a crash
                workers[-1] = self.started()
            luck.choice(workers).step(timeout_s=0.0, wait=lambda seconds: None)
            self.clock.advance(luck.choice((1_000, 200_000, 3_000_000)))
        assert store.troubles > 0
        store.rate, store.flying = 0.0, []
        self.drain(self.started())
        return self.agrees()

    # -- what is and what should be ------------------------------------------------------------------------------------

    def actual(self, view: View, q_us: int, ids: Sequence[str | int] = ()) -> Values:
        """The view's values of these entities (all), from the store."""
        if (kernel := self._kernels.get(view.id)) is None:
            kernel = self._kernels[view.id] = ViewKernel(view, {"trip": self.source})
        layout, ids = kernel.layouts["trip"], ids or _ids(view)
        owners: list[int | None] = [None] if layout.keyed else list(range(self.partitions))
        blobs = [
            self.online.read(
                [self.keys.state(layout.entity, entity_id, view.id, "trip", owner, one.part) for one in layout.all for owner in owners]
            )
            for entity_id in ids
        ]
        return kernel.finalize({"trip": state.parse(layout, blobs)}, np.full(len(ids), q_us, np.int64))

    def expected(self, view: View, q_us: int, applied: dict[int, int] | None = None) -> Values:
        """The same from the log's records."""
        kernel, ids = ViewKernel(view, {"trip": self.source}), _ids(view)
        upto: dict[int, int] = applied or self.log.topic(self.source.topic).end
        return recompute(
            kernel, {"trip": self.source}, {"trip": self.events()}, ids, np.full(len(ids), q_us, np.int64), {"trip": upto}
        )

    def events(self) -> list[Events]:
        """The log's events, decoded: one item for each partition."""
        decoder = Decoder(self.source)
        decoded: dict[int, list[Events]] = {partition: [] for partition in range(self.partitions)}
        for batch in self.read(self.source.topic, self.log.topic(self.source.topic).end):
            decoded[batch.partition].append(decoder.decode(batch).events)
        return [joined(parts) for parts in decoded.values() if parts]

    def read(self, topic: str, end: dict[int, int]) -> Iterator[Batch]:
        """Everything of the topic up to ``end``, and what else comes with that: other tests may append to it meanwhile."""
        consumer = self.log.consumer(f"reading-{uuid.uuid4().hex}", {"read": topic})     # other processes' luck is the same
        at = dict(self.log.topic(topic).beginning)
        try:
            while any(at[partition] < offset for partition, offset in end.items()):
                polled = consumer.poll(timeout_s=5, max_records=100_000, max_bytes=1 << 30)
                for place in polled.assignment.assigned:
                    consumer.seek(place, at[place.partition])
                for batch in polled.batches:
                    at[batch.partition] = batch.next
                    yield batch
        finally:
            consumer.close()

    def agrees(self, q_us: int | None = None) -> bool:
        """Whether every value of every view is, to the bit, what the log says."""
        q_us = q_us or self.clock.now_us() + 60 * SECOND_US
        return all(_bytes(self.actual(view, q_us)) == _bytes(self.expected(view, q_us)) for view in self.project.views)

    def letters(self) -> list[dict[str, object]]:
        """What stands on the dead-letter topic."""
        topic = system.dead_letters(DEFAULT_PROJECT).topic
        return [json.loads(value) for batch in self.read(topic, self.log.topic(topic).end) for value in batch.values if value]


def joined(parts: Sequence[Events]) -> Events:
    first = parts[0]
    return Events(
        first.partition,
        np.concatenate([part.offsets for part in parts]),
        np.concatenate([part.times_us for part in parts]),
        np.concatenate([part.timestamps_us for part in parts]),
        {name: np.concatenate([part.columns[name] for part in parts]) for name in first.columns},
        first.append_time,
    )


def _ids(view: View) -> Sequence[str | int]:
    return RIDERS if view.entity == "rider" else ZONES


def _bytes(values: Values) -> tuple[object, ...]:
    texts = {place: strings.tolist() for place, strings in values.texts.items()}
    return values.values.tobytes(), values.statuses.tobytes(), values.event_times_us.tobytes(), texts
