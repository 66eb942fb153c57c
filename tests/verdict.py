"""What a project's stores hold, against a single-threaded naive replay of its log: what is lost, what counts twice, what is wrong.

lost       events that the replay counts and a state does not, by the count features: of an entity's counts the largest shortfall; rows
           that history lacks; dead letters that were never written.
doubled    the same, the other way round: events that a state counts too often; rows and letters of records that should have none.
wrong      entities whose counts are right and another value is not; rows that differ from their record; letters with another reason.

The replay is ``oracle``'s, which shares no code with the kernel. What an estimate is to the last bit it does not know: it is computed
again from the log's events, and lies as near to the oracle's exact value as an estimate must.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

import numpy as np
import sqlalchemy
from naive import Naive, answers, differences
from replay import recompute
from worker_rig import joined
from world import World

import oracle
from featureflow.clock import to_us
from featureflow.define import system
from featureflow.define.spec import Feature, Project, View
from featureflow.ingest.decode import Decoder
from featureflow.kernel.events import Events
from featureflow.kernel.finalize import ViewKernel

SAID = 20                                  # of the differences, at most
DEVIATIONS = 6                             # from the exact value, at most: standard errors of an estimate


@dataclass
class Verdict:
    """``nonempty`` are the entities with a value that an event counts in, ``duplicates`` the events that a view does not count, as copies,
    and ``published`` the values that were compared with what stands in the store. ``said`` names what differs, the first of it."""

    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    entities: int = 0
    nonempty: int = 0
    letters_expected: int = 0
    letters: int = 0
    rows: int = 0
    duplicates: int = 0
    published: int = 0
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
    """What the log holds: its events, and by its position each record that is none. ``decoded``: the same events of each source as
    FeatureFlow reads them, one item for each partition."""

    events: list[oracle.Record]
    refused: set[str]
    decoded: dict[str, list[Events]] = field(default_factory=dict)

    def lacks(self, acknowledged: Iterable[tuple[str, int, int]]) -> list[str]:
        """Which of these (source, partition, offset) the log does not hold. A bad record whose append had no answer hides none of them."""
        held = self.refused | {f"{record.source}/{record.partition}/{record.offset}" for record in self.events}
        return sorted({"/".join(map(str, place)) for place in acknowledged} - held)


def replay(world: World, bad: Iterable[bytes]) -> Replay:
    """Both topics, read back and decoded by the standard library; values in ``bad`` are no events."""
    known, events, refused, decoded = set(bad), list[oracle.Record](), set[str](), dict[str, list[Events]]()
    for source in world.project.sources:
        name, decoder, parts = source.name, Decoder(source), defaultdict[int, list[Events]](list)
        for batch in world.batches(world.topic_of(name)):
            parts[batch.partition].append(decoder.decode(batch).events)
            for offset, stamp, value in zip(batch.offsets.tolist(), batch.timestamps_us.tolist(), batch.values, strict=True):
                if value is None or value in known:
                    refused.add(f"{name}/{batch.partition}/{offset}")
                    continue
                fields = {"zone": None, "fare": None, **json.loads(value)}
                events.append(oracle.Record(name, batch.partition, offset, fields["at"], stamp, fields))
        decoded[name] = [joined(several) for several in parts.values()]
    return Replay(events, refused, decoded)


def of_state(world: World, log: Replay, instants: Sequence[int]) -> Verdict:
    """Every feature of every entity of every view at each instant (us)."""
    project, verdict = world.project, Verdict()
    naive = Naive(project, log.events)
    for view in project.views:
        ids = naive.ids(view)
        verdict.entities += len(ids)
        verdict.duplicates += sum(judged == "duplicate" for _, judged in oracle.verdicts(view, naive.sources, log.events))
        live, off, texts = set[str | int](), dict[str | int, list[int]](), dict[str | int, str]()
        for q in instants:
            expected, actual = _expected(view, naive, log, ids, q), world.values(view, ids, q)
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


def _expected(view: View, naive: Naive, log: Replay, ids: Sequence[str | int], q: int) -> dict[str | int, list[oracle.Answer]]:
    """By the oracle, and where that has only the value that an estimate is near, the estimate."""
    exact, estimated = naive.values(view, ids, q), [feature.aggregation.op.startswith("approx_") for feature in view.features]
    if not any(estimated):
        return exact
    applied = {name: {part.partition: int(part.offsets[-1]) + 1 for part in parts if len(part)} for name, parts in log.decoded.items()}
    kernel, sources = ViewKernel(view, naive.sources), naive.sources
    again = answers(view, ids, recompute(kernel, sources, log.decoded, ids, np.full(len(ids), q, np.int64), applied))
    return {
        entity: [
            b if is_one and _near(feature, a, b) else a
            for feature, is_one, a, b in zip(view.features, estimated, exact[entity], again[entity], strict=True)
        ]
        for entity in ids
    }


def _near(feature: Feature, exact: oracle.Answer, estimate: oracle.Answer) -> bool:
    """Whether it is an estimate of that value."""
    if (exact.status, exact.event_time_us) != (estimate.status, estimate.event_time_us):
        return False
    return exact.status != "p" or bool(np.isclose(
        np.array(estimate.values, float), np.array(exact.values, float), rtol=DEVIATIONS * feature.aggregation.error, atol=1.0
    ))


def of_published(world: World, log: Replay) -> Verdict:
    """What each entity's values in plain sight were at their instant, which is one that its partition was at since its last event."""
    verdict, naive = Verdict(), Naive(world.project, log.events)
    for view in world.project.views:
        if not view.publish:
            continue
        (name,) = view.keys
        ids, maxima = naive.ids(view), _running_maxima(naive, name, log)
        for entity, found in zip(ids, world.published(view, ids), strict=True):
            last = max(naive.records(view, entity), key=lambda record: record.offset)
            where = f"{view.name} {entity!r}, published, events in {name}/{last.partition}"
            if found is None:
                verdict.differs(f"{where}: nothing stands there", lost=1)
                continue
            q = to_us(datetime.fromisoformat(found["as_of"]))
            if q not in {at for offset, at in maxima[last.partition] if offset >= last.offset}:
                verdict.differs(f"{where}: as of {found['as_of']}, where the partition was not since offset {last.offset}")
                continue
            expected: dict[str, Any] = {"view": view.id, "as_of": found["as_of"]}
            for feature, answer in zip(view.features, naive.values(view, [entity], q)[entity], strict=True):
                values = [None if value != value else value for value in answer.values]
                expected[feature.name] = values if feature.is_sequence else values[0]
            if found != expected:
                verdict.differs(f"{where}: {found}, which is {expected}")
            verdict.published += 1
    return verdict


def _running_maxima(naive: Naive, name: str, log: Replay) -> dict[int, list[tuple[int, int]]]:
    """Of each partition, the offset of each accepted event with the newest event time up to it."""
    view = next(view for view in naive.project.views if view.publish and name in view.keys)
    found, newest = defaultdict[int, list[tuple[int, int]]](list), dict[int, int]()
    for record, judged in oracle.verdicts(view, naive.sources, log.events):
        if judged != "future":
            newest[record.partition] = max(newest.get(record.partition, record.time_us), record.time_us)
            found[record.partition].append((record.offset, newest[record.partition]))
    return found


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
    for source, fields in [(source.name, [one.name for one in source.fields]) for source in world.project.sources]:
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
    """Position -> ``bad``, ``future``, or by view ``late`` and ``too_wide``."""
    sources = {source.name: source for source in project.sources}
    expected = dict.fromkeys(log.refused, "bad")
    for view in project.views:
        for record, judged in oracle.verdicts(view, sources, log.events):
            position = f"{record.source}/{record.partition}/{record.offset}"
            if judged == "future":
                expected[position] = judged
            elif judged in ("late", "too wide"):
                expected[f"{position}/{view.id}"] = judged.replace(" ", "_")
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
    """State, published values, history and dead letters together."""
    parts = (of_state(world, log, instants), of_published(world, log), of_history(world, log), of_letters(world, log))
    state, published, history, letters = parts
    return Verdict(
        sum(part.lost for part in parts), sum(part.doubled for part in parts), sum(part.wrong for part in parts),
        state.entities, state.nonempty, letters.letters_expected, letters.letters, history.rows, state.duplicates, published.published,
        [said for part in parts for said in part.said],
    )
