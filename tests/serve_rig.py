"""A scorer over the worker's rig: log and store in memory, real kernel, real models, and HTTP over loopback where a test wants it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from time import monotonic

import aiohttp
import msgspec
import numpy as np
from worker_rig import PROJECT, TRIP, Rig

from featureflow import limits
from featureflow.define import system
from featureflow.define.spec import DEFAULT_PROJECT, Call, Column, Field, Input, Literal, Model, Project, Request
from featureflow.models.export import export_mlp
from featureflow.models.manifest import inputs_of
from featureflow.models.store import ModelStore
from featureflow.models.transform import fit
from featureflow.serve.answer import Answer, Shed
from featureflow.serve.app import ServeOptions, Server
from featureflow.serve.body import Bodies
from featureflow.serve.connection import Connections
from featureflow.serve.lanes import Lanes
from featureflow.serve.metrics import Metrics
from featureflow.serve.openapi import Document
from featureflow.serve.prediction_log import PredictionLog
from featureflow.serve.produce import Producer
from featureflow.serve.routes import Routes
from featureflow.serve.scorer import Scorer
from featureflow.serve.turn import Turns
from featureflow.serve.upkeep import Upkeep
from featureflow.store.mirror import PROJECT_DOCUMENT
from featureflow.store.online.beside import Group, Kept, Together, read_all
from featureflow.store.online.protocol import OnlineStore
from featureflow.store.online.redis import RedisOnlineStore

PREDICTIONS = system.predictions(DEFAULT_PROJECT)

ASK = Request(
    name="ask",
    fields=(
        Field(name="hour", type="int"),
        Field(name="weight", type="float", nullable=True),
        Field(name="vip", type="bool", nullable=True),
        Field(name="since", type="datetime", nullable=True),
        Field(name="city", type="str", nullable=True, max_bytes=40),
    ),
)
INPUTS = (
    Input(name="count", expr=Column("rider_now:count_1h")),
    Input(name="share", expr=Call("div", (Column("rider_now:sum_1m"), Column("rider_now:sum_1h"))), default=0.0),
    Input(name="last", expr=Column("zone_now:last_n"), size=3),
    Input(name="hour", expr=Column("ask:hour")),
    Input(name="weight", expr=Column("ask:weight")),
    Input(name="vip", expr=Column("ask:vip")),
    Input(name="since", expr=Column("ask:since")),
    Input(name="paris", expr=Call("eq", (Column("ask:city"), Literal("Paris")))),
)
TIP = Model(name="tip", inputs=INPUTS, deadline_us=60_000_000, drift=0.1)
STRICT = Model(name="strict", inputs=INPUTS[:3], deadline_us=60_000_000, drift=0.1, when_missing="refuse")
WITH_MODELS: Project = msgspec.structs.replace(PROJECT, requests=(ASK,), models=(TIP, STRICT))


def train(store: ModelStore, model: Model, seed: int = 0, project: Project | None = None) -> str:
    """Add a version of the model with drawn weights; its name. ``project``: with it the version keeps what it reads."""
    draw = np.random.default_rng(seed)
    inputs = inputs_of(model)
    width = sum(item.size for item in inputs)
    rows = draw.normal(3.0, 10.0, (200, width))
    rows[draw.random(rows.shape) < 0.1] = np.nan
    transforms = fit(rows, inputs)
    sizes = (transforms.width_out, 8, 1)
    store.path.mkdir(parents=True, exist_ok=True)
    onnx = store.path / f".{model.name}-{seed}.onnx"
    export_mlp(
        [draw.normal(size=(a, b)) / np.sqrt(a) for a, b in pairwise(sizes)],
        [np.zeros(b) for b in sizes[1:]],
        onnx,
    )
    return store.add(model.name, onnx, inputs=inputs, transforms=transforms, model=model, project=project).version


class DirectReader:
    """The asynchronous side of a store in memory. ``reads`` counts them; ``hold`` keeps them waiting; ``fail`` makes them fail."""

    def __init__(self, store: OnlineStore) -> None:
        self.store, self.kept = store, Kept()
        self.reads: list[int] = []
        self.fail: Exception | None = None
        self.hold: asyncio.Event | None = None

    async def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self.reads.append(len(keys))
        if self.hold is not None:
            await self.hold.wait()
        if self.fail is not None:
            raise self.fail
        return self.store.read(keys)

    async def read_beside(self, groups: Sequence[Group], keys: Sequence[bytes], *, tell: bool = False) -> Together:
        return await read_all(self.read, groups, keys)


@dataclass
class ServeRig:
    rig: Rig
    reader: DirectReader
    scorer: Scorer
    predictions: PredictionLog
    metrics: Metrics
    models: ModelStore

    async def ask(self, model: str, body: object, *, ref: str = "") -> Answer | Shed:
        """One request, answered."""
        return await self.begin(model, body, ref=ref)

    def begin(self, model: str, body: object, *, ref: str = "") -> asyncio.Future[Answer | Shed]:
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return self.scorer.score(model, ref, raw, request_id="r1", since_s=monotonic())[1]

    def logged(self) -> list[dict[str, object]]:
        """What stands on the prediction topic, once the log is closed."""
        self.predictions.close(60.0)
        end = self.rig.memory_log.topic(PREDICTIONS.topic).end
        return [msgspec.json.decode(value) for batch in self.rig.read(PREDICTIONS.topic, end) for value in batch.values if value]


@asynccontextmanager
async def serving(
    models: ModelStore,
    *,
    rig: Rig | None = None,
    project: Project = WITH_MODELS,
    capacity_rows: int = 10_000,
    stale_after_us: int = 30_000_000,
) -> AsyncIterator[ServeRig]:
    """A scorer that has read its definitions and loaded its models."""
    rig = rig or Rig()
    rig.log.ensure_topic(PREDICTIONS.topic, 2)
    rig.online.put_meta(PROJECT_DOCUMENT, msgspec.json.encode(project))
    reader, metrics = DirectReader(rig.online), Metrics()
    predictions = PredictionLog(
        rig.log,
        PREDICTIONS.topic,
        capacity_rows=capacity_rows,
        dropped=lambda reason, n: metrics.dropped.labels(reason).inc(n),
        logged=metrics.logged.inc,
    )
    scorer = Scorer(
        reader,
        models,
        clock=rig.clock,
        wall=rig.clock,
        stale_after_us=stale_after_us,
        predictions=predictions,
        metrics=metrics,
    )
    predictions.start()
    try:
        await scorer.refresh()
        yield ServeRig(rig, reader, scorer, predictions, metrics, models)
    finally:
        predictions.close(60.0)
        scorer.close()


async def at_rest(turns: Turns | Lanes) -> None:
    """Wait until nothing is queued or under way: a turn goes on after its answers, which may be what a test is after."""
    while turns.waiting or turns.active:
        await asyncio.sleep(0.001)


@dataclass
class Listening:
    """HTTP on loopback in front of a ``ServeRig``."""

    rig: ServeRig
    url: str
    client: aiohttp.ClientSession
    host: str
    port: int
    connections: Connections


@asynccontextmanager
async def listening(
    rig: ServeRig, *, body_s: float = 10.0, linger_s: float = 0.1, bodies_bytes: int = limits.BODIES_BYTES,
    connections: int = limits.CONNECTIONS,
) -> AsyncIterator[Listening]:  # fmt: skip
    producer = Producer(rig.rig.log)
    producer.start()
    upkeep = Upkeep(rig.scorer, rig.rig.log)
    routes = Routes(rig.scorer, producer, upkeep, Document("0", rig.rig.clock), body_s=body_s)
    routes.bodies = Bodies(body_s, bodies_bytes)
    made = Connections(routes, linger_s=linger_s, most=connections)
    listener = await asyncio.get_running_loop().create_server(made.connect, "127.0.0.1", 0)
    host, port = listener.sockets[0].getsockname()[:2]
    try:
        async with aiohttp.ClientSession(auto_decompress=False) as client:
            yield Listening(rig, f"http://{host}:{port}", client, host, port, made)
    finally:
        listener.close()
        await made.close(2.0)
        producer.close(5.0)


def fed(count: int = 300) -> Rig:
    """A rig whose worker has folded that many events."""
    rig = Rig()
    rig.produce(count)
    worker = rig.worker()
    worker.open()
    rig.drain(worker)
    return rig


def fed_into(url: str, count: int = 200, project: Project = WITH_MODELS) -> Rig:
    """Events folded by the real worker into the online store at ``url``."""
    online = RedisOnlineStore(url)
    rig = Rig(online=online)
    rig.log.ensure_topic(PREDICTIONS.topic, 2)
    online.put_meta(PROJECT_DOCUMENT, msgspec.json.encode(project))
    fold(rig, count)
    return rig


def fold(rig: Rig, count: int) -> None:
    """So many more events, by a worker of its own."""
    rig.produce(count)
    worker = rig.started()
    rig.drain(worker)
    worker.close()


@asynccontextmanager
async def served(url: str, rig: Rig, models: ModelStore) -> AsyncIterator[tuple[str, aiohttp.ClientSession, Server]]:
    """A scorer that listens, over the store at ``url``: its address, a client, and itself."""
    options = ServeOptions(port=0)
    server = Server(project=DEFAULT_PROJECT, online_url=url, log_store=rig.log, models=models, clock=rig.clock, options=options)
    address = await server.start()
    try:
        async with aiohttp.ClientSession() as client:
            yield address, client, server
    finally:
        await server.stop()


def models_in(folder: Path) -> ModelStore:
    """A store with one version of each model."""
    store = ModelStore(folder, provider="cpu")
    for model in WITH_MODELS.models:
        train(store, model)
    return store


__all__ = [
    "ASK", "TRIP", "Listening", "Rig", "ServeRig", "at_rest", "fed", "fed_into", "fold", "listening", "models_in", "served", "serving",
    "train",
]  # fmt: skip
