"""What a project's stores hold, against a single-threaded naive replay of its log: what is lost, what counts twice, what is wrong.

lost       events that the replay counts and a state does not, by the count features: of an entity's counts the largest shortfall; rows
           that history lacks; dead letters that were never written.
doubled    the same, the other way round: events that a state counts too often; rows and letters of records that should have none.
wrong      entities whose counts are right and another value is not; rows that differ from their record; letters with another reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import sqlalchemy
from world import Naive, World, differences

import oracle
from featureflow.define import system
from featureflow.define.spec import Project, View

SAID = 20                                  # of the differences, at most


@dataclass
class Verdict:
    """``nonempty`` are the entities with a value that an event counts in. ``said`` names what differs, the first of it."""

    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    entities: int = 0
    nonempty: int = 0
    letters_expected: int = 0
    letters: int = 0
    rows: int = 0
    said: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.wrong)

    def differs(self, what: str, *, lost: int = 0, doubled: int = 0) -> None:
        self.lost += lost
        self.doubled += doubled
        self.wrong += not (lost or doubled)
        if len(self.said) < SAID:
            self.said.append(what)


@dataclass(frozen=True)
class Replay:
    """What the log holds: its events, and by its position each record that is none."""

    events: list[oracle.Record]
    refused: set[str]

    def lacks(self, acknowledged: Iterable[tuple[str, int, int]]) -> list[str]:
        """Which of these (source, partition, offset) the log does not hold. A bad record whose append had no answer hides none of them."""
        held = self.refused | {f"{record.source}/{record.partition}/{record.offset}" for record in self.events}
        return sorted({"/".join(map(str, place)) for place in acknowledged} - held)


def replay(world: World, bad: Iterable[bytes]) -> Replay:
    """Both topics, read back and decoded by the standard library; values in ``bad`` are no events."""
    known, events, refused = set(bad), list[oracle.Record](), set[str]()
    for name in ("ride", "tip"):
        for batch in world.batches(world.topic_of(name)):
            for offset, stamp, value in zip(batch.offsets.tolist(), batch.timestamps_us.tolist(), batch.values, strict=True):
                if value is None or value in known:
                    refused.add(f"{name}/{batch.partition}/{offset}")
                    continue
                fields = {"zone": None, "fare": None, **json.loads(value)}
                events.append(oracle.Record(name, batch.partition, offset, fields["at"], stamp, fields))
    return Replay(events, refused)


def of_state(world: World, log: Replay, instants: Sequence[int]) -> Verdict:
    """Every feature of every entity of every view at each instant (us)."""
    project, verdict = world.project, Verdict()
    naive = Naive(project, log.events)
    for view in project.views:
        ids = naive.ids(view)
        verdict.entities += len(ids)
        live, off, texts = set[str | int](), dict[str | int, list[int]](), dict[str | int, str]()
        for q in instants:
            expected, actual = naive.values(view, ids, q), world.values(view, ids, q)
            live |= {entity for entity in ids if any(answer.status == "p" for answer in expected[entity])}
            for entity in ids:
                if found := differences({entity: expected[entity]}, {entity: actual[entity]}):
                    off.setdefault(entity, []).extend(_counts_off(view, expected[entity], actual[entity]))
                    where = sorted({f"{r.source}/{r.partition}" for r in naive.records(view, entity)})
                    texts.setdefault(entity, f"{view.name} {entity!r} at {q}, events in {', '.join(where)}: {found[:3]}")
        for entity, text in texts.items():
            verdict.differs(text, lost=max(0, *off[entity]), doubled=max(0, *(-n for n in off[entity])))
        verdict.nonempty += len(live)
    return verdict


def _counts_off(view: View, expected: Sequence[oracle.Answer], actual: Sequence[oracle.Answer]) -> list[int]:
    """By how much each count falls short; never empty."""
    return [0, 0] + [
        int(cast(float, a.values[0]) - cast(float, b.values[0]))  # a count is a number, also of nothing
        for feature, a, b in zip(view.features, expected, actual, strict=True)
        if feature.aggregation.op == "count"
    ]


def of_history(world: World, log: Replay) -> Verdict:
    """Each (partition, offset) of an event once, and as it was sent."""
    verdict = Verdict()
    engine = sqlalchemy.create_engine(world.history_url)
    for source, fields in (("ride", ("at", "rider", "zone", "fare", "cash")), ("tip", ("at", "rider", "amount"))):
        with engine.connect() as link:
            columns = ", ".join(f"`{name}`" for name in fields)
            rows = link.execute(sqlalchemy.text(f"SELECT _partition, _offset, {columns} FROM ev_{source}")).all()
        stored = {tuple(row[:2]): dict(zip(fields, row[2:], strict=True)) for row in rows}
        sent = {
            (record.partition, record.offset): {name: record.fields[name] for name in fields}
            for record in log.events if record.source == source
        }
        verdict.rows += len(rows)
        if len(rows) > len(stored):
            verdict.differs(f"history of {source} holds {len(rows) - len(stored)} rows twice", doubled=len(rows) - len(stored))
        for place in sorted(sent.keys() - stored.keys()):
            verdict.differs(f"history lacks {source} {place}", lost=1)
        for place in sorted(stored.keys() - sent.keys()):
            verdict.differs(f"history has {source} {place}, which is no event", doubled=1)
        for place in sent.keys() & stored.keys():
            if sent[place] != stored[place]:
                verdict.differs(f"history of {source} {place} is {stored[place]}, sent was {sent[place]}")
    engine.dispose()
    return verdict


def of_letters(world: World, log: Replay) -> Verdict:
    """Each refused record has its letter, known by its position however often it was written, and nothing else has one."""
    verdict, expected = Verdict(), expected_letters(world.project, log)
    for place, found in (("the topic", _letters_on_topic(world)), ("history", _letters_in_history(world))):
        for position in sorted(expected.keys() - found.keys()):
            verdict.differs(f"{place} lacks the dead letter {position}: {expected[position]}", lost=1)
        for position in sorted(found.keys() - expected.keys()):
            verdict.differs(f"{place} has a dead letter {position}: {found[position]}", doubled=1)
        for position in expected.keys() & found.keys():
            if expected[position] != "bad" and expected[position] != found[position]:
                verdict.differs(f"{place} has {position} as {found[position]}, which is {expected[position]}")
        verdict.letters = len(found)
    verdict.letters_expected = len(expected)
    return verdict


def expected_letters(project: Project, log: Replay) -> dict[str, str]:
    """Position -> ``bad``, ``future`` or ``late`` (these by view)."""
    sources = {source.name: source for source in project.sources}
    expected = dict.fromkeys(log.refused, "bad")
    for view in project.views:
        for record, judged in oracle.verdicts(view, sources, log.events):
            position = f"{record.source}/{record.partition}/{record.offset}"
            if judged == "future":
                expected[position] = judged
            elif judged == "late":
                expected[f"{position}/{view.id}"] = judged
    return expected


def _letters_on_topic(world: World) -> dict[str, str]:
    topic = system.dead_letters(world.project.name).topic
    letters: list[dict[str, Any]] = [json.loads(value) for batch in world.batches(topic) for value in batch.values if value]
    return {letter["position"]: letter["reason"] for letter in letters}


def _letters_in_history(world: World) -> Mapping[str, str]:
    engine = sqlalchemy.create_engine(world.history_url)
    with engine.connect() as link:
        rows = link.execute(sqlalchemy.text("SELECT position, reason FROM ev_featureflow_dead_letters")).all()
    engine.dispose()
    return {str(position): str(reason) for position, reason in rows}


def of_everything(world: World, log: Replay, instants: Sequence[int]) -> Verdict:
    """State, history and dead letters together."""
    state, history, letters = of_state(world, log, instants), of_history(world, log), of_letters(world, log)
    parts = (state, history, letters)
    return Verdict(
        sum(part.lost for part in parts), sum(part.doubled for part in parts), sum(part.wrong for part in parts),
        state.entities, state.nonempty, letters.letters_expected, letters.letters, history.rows,
        [*state.said, *history.said, *letters.said],
    )
