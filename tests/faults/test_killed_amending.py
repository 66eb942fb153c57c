"""kill -9 of the history writer while it amends rows by a new definition: what the log holds by that definition is what is there.

Each step has an event of its own, whose definition changes when its turn comes: an amount may be null, so that records that were refused
are events now; a tag is declared that records had before; and a channel, of which some records have what it may not be.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import forked
import pytest
import redis
import sqlalchemy
from conftest import fresh_database
from processes import until
from watched import Trap
from world import PARTITIONS, SECOND_US, World, embedded, production

from featureflow.ingest import failpoint
from featureflow.ingest.failpoint import Name
from featureflow.store.log.protocol import Record
from servers import Services

STEPS = get_args(failpoint.Amending)
RECORDS = 90
HEAD = """
from datetime import datetime
from typing import Literal

from featureflow import Entity, Event, Field, View, count, key


class Rider(Entity[str]): ...
"""
EVENT = """

class {name}(Event, topic="{topic}-{source}s", time="at", disorder="1m"):
    at: Field[datetime]
    rider: Field[str] = key(Rider)
    amount: Field[float{null}]
"""
ADDED = """    channel: Field[Literal["app", "web"] | None]
    tag: Field[str | None]
"""
VIEW = """

class Seen(View, of=Rider):
    events = count({name}, over=("1h",))
"""
Rows = dict[tuple[int, int], tuple[Any, ...]]
Refused = dict[tuple[int, int], str | None]                        # by which fields a record that has a row is none


class Amended:
    """A project whose events change one after the other; ``sent``: of each, by partition and offset, what was appended."""

    def __init__(self, world: World) -> None:
        self.world, self.changed = world, set[str]()
        self.sent: dict[str, dict[tuple[int, int], dict[str, Any]]] = {}
        self.trap = Trap(world.folder / "history.trap")
        self.apply()
        luck = random.Random(7)
        for step in STEPS:
            values = [self._record(luck, i) for i in range(RECORDS)]
            places = world.context.log.append(
                world.topic_of(step), [Record(json.dumps(value).encode(), partition=i % PARTITIONS) for i, value in enumerate(values)]
            )
            self.sent[step] = dict(zip(places, values, strict=True))
        self.drain()

    @staticmethod
    def _record(luck: random.Random, i: int) -> dict[str, Any]:
        rider = [f"r{i}"] if luck.random() < 0.1 else f"r{i}"              # a list is no event by any definition
        return {
            "at": time.time_ns() // 1_000 - i * SECOND_US, "rider": rider, "amount": luck.choice((None, i / 7, i / 3)),
            "channel": luck.choice(("app", "web", "fax", None)), "tag": luck.choice((f"t{i}", None)),
        }  # fmt: skip

    def apply(self) -> None:
        events = [
            EVENT.format(
                name=_class_of(step), source=step, topic=self.world.topic, null=" | None" if step in self.changed else ""
            ) + (ADDED if step in self.changed else "")
            for step in STEPS
        ]
        (self.world.folder / "features.py").write_text(HEAD + "".join(events) + VIEW.format(name=_class_of(STEPS[0])))
        self.world.featureflow("apply")

    def start(self) -> forked.Forked:
        settings = {
            "FEATUREFLOW_HISTORY_WRITER_MEMBER": f"{self.world.topic}-history",
            "FEATUREFLOW_TEST_HAND": str(self.world.folder / "history.hand"),
            "FEATUREFLOW_TEST_TRAP": str(self.world.folder / "history.trap"),
        }
        return forked.start(self.world, "history", **settings)

    def drain(self) -> None:
        """By a writer that is killed when it has nothing to do any more."""
        writer = self.start()
        until(self._amended, f"the end of what is to be amended; {writer.output}")
        writer.kill()

    def _amended(self) -> bool:
        history = self.world.context.history
        return self.world.recorded(STEPS) and not any(
            history.unfilled(source.name) or any(history.refused(source, partition, 1) for partition in range(PARTITIONS))
            for source in self.world.project.sources
        )

    def found(self, step: str) -> tuple[Rows, Refused]:
        """The event's rows, and which of its records are none."""
        columns = ["rider", "amount", *(["channel", "tag"] if step in self.changed else [])]
        engine = sqlalchemy.create_engine(self.world.history_url)
        with engine.connect() as link:
            rows = link.execute(sqlalchemy.text(f"SELECT _partition, _offset, {', '.join(columns)} FROM ev_{step}")).all()
            select = sqlalchemy.text("SELECT partition_id, record_offset, fields FROM history_refused WHERE source = :source")
            refused = link.execute(select, {"source": step}).all()
        engine.dispose()
        assert len({tuple(row[:2]) for row in rows}) == len(rows)
        assert len({tuple(one[:2]) for one in refused}) == len(refused)
        return {(row[0], row[1]): tuple(row[2:]) for row in rows}, {(one[0], one[1]): one[2] for one in refused}

    def expected(self, step: str) -> tuple[Rows, Refused]:
        rows, refused, changed = Rows(), Refused(), step in self.changed
        for place, value in self.sent[step].items():
            known, was = isinstance(value["rider"], str), value["amount"] is not None
            if known and changed and value["channel"] != "fax":
                rows[place] = (value["rider"], value["amount"], value["channel"], value["tag"])
            elif known and was:
                rows[place] = (value["rider"], value["amount"], *((None, None) if changed else ()))
                if changed:
                    refused[place] = ",channel,"
            else:
                refused[place] = None
        return rows, refused


def _class_of(step: str) -> str:
    return step.title().replace("_", "")


@pytest.fixture(scope="module", params=["production", "embedded"])
def amended(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Amended]:
    folder: Path = tmp_path_factory.mktemp(request.param) / "project"
    if request.param == "embedded":
        with embedded(folder) as world:
            yield Amended(world)
        return
    services: Services = request.getfixturevalue("services")
    redis_url: str = request.getfixturevalue("own_database")
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
    with fresh_database(services) as mysql_url, production(folder, services, redis_url, mysql_url) as world:
        yield Amended(world)


@pytest.mark.parametrize("step", STEPS)
def test_a_writer_killed_while_it_amends_history_leaves_nothing_lost_and_nothing_doubled(amended: Amended, step: Name) -> None:
    assert amended.found(step) == amended.expected(step)
    before, _ = amended.found(step)
    amended.changed.add(step)
    amended.apply()
    amended.trap.arm(step, random.Random(step).randint(1, PARTITIONS))
    dying = amended.start()
    until(lambda: not dying.running(), f"the death of the writer at {step}; {dying.output}")
    assert (dying.wait(), amended.trap.died_at) == (-signal.SIGKILL, step)
    amended.drain()
    rows, refused = amended.found(step)
    assert (rows, refused) == amended.expected(step)
    assert rows.keys() > before.keys(), "records that were refused are events now"
    assert rows.keys() & refused.keys(), "records that have rows are none now"
    assert any(rows[place][-1] for place in before), "a field was filled in"
    for other in STEPS:
        assert amended.found(other) == amended.expected(other)
