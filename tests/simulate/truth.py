"""What should be there once everything is folded, by the oracle and by the records themselves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from itertools import compress

import numpy as np
from naive import Naive, differences
from worker_rig import RIDERS, SECOND_US, ZONES

import oracle
from featureflow.clock import NO_TIME_US, to_us
from featureflow.define.spec import View
from featureflow.errors import StateError
from featureflow.kernel.finalize import Status, Values
from featureflow.kernel.partial.distinct import HyperLogLog, hashed
from featureflow.store.online.published import encode
from simulate.world import World

AHEAD_US = (0, 61 * SECOND_US, 900 * SECOND_US)


def judge(world: World) -> list[str]:
    """What is wrong in a world that was drained. Nothing, if all is well."""
    return [*world.wrong, *_values(world), *_published(world), *_letters(world)]


def _values(world: World) -> list[str]:
    naive, found = Naive(world.project, world.records), []
    for view in world.project.views:
        ids = RIDERS if view.entity == "rider" else ZONES
        for ahead_us in AHEAD_US:
            q_us = world.clock.now_us() + ahead_us
            expected = naive.values(view, ids, q_us)
            world.happened["values present"] += sum(answer.status == "p" for answers in expected.values() for answer in answers)
            try:
                actual = world.rig.actual(view, q_us)
            except StateError as error:
                return [f"{view.name} cannot be read: {error}"]
            actual_answers = answers(view, ids, actual)
            if _clash(world, view):
                world.happened["worlds where two values are one to approx_distinct"] += 1
                actual_answers, expected = _without_distinct(view, actual_answers), _without_distinct(view, expected)
            wrong = differences(actual_answers, expected)
            found += [f"{view.name} in {ahead_us / SECOND_US:.0f} s: {difference} (state, oracle)" for difference in wrong]
    return found


def _clash(world: World, view: View) -> bool:
    """Whether two values of this world share a register of the view's sketches: then the estimate is not what the oracle counts."""
    sketches = [HyperLogLog.of(one) for one in view.aggregations if one.op == "approx_distinct"]
    values = np.array(sorted({record.fields["fare"] for record in world.records if record.fields["fare"] is not None}), np.float64)
    registers = [hashed(values) >> np.uint64(64 - sketch.precision) for sketch in sketches]
    return any(len(np.unique(each)) < len(values) for each in registers)


def _without_distinct(view: View, found: dict[str | int, list[oracle.Answer]]) -> dict[str | int, list[oracle.Answer]]:
    kept = [feature.aggregation.op != "approx_distinct" for feature in view.features]
    return {entity: list(compress(answers, kept)) for entity, answers in found.items()}


def _published(world: World) -> list[str]:
    """What is published of an entity is, to the byte, what its state gives at the instant that it names: none before its events."""
    found = []
    for view in world.project.views:
        if not view.publish:
            continue
        mine: dict[str | int, int] = {}
        for record in oracle.counting(view, {"trip": world.source}, world.records):
            entity = record.fields[view.keys["trip"]]
            mine[entity] = max(mine.get(entity, 0), record.time_us)
        for entity in RIDERS:
            keys = world.rig.keys
            states = [keys.state(view.entity, entity, view.id, "trip", None), keys.published(view.entity, entity, view.name)]
            state, values = world.rig.online.read(states)
            if not values:
                if state is not None and values is None:
                    found.append(f"{view.name} of {entity!r} has a state and was never published")
                continue
            world.happened["published values"] += 1
            as_of_us = to_us(datetime.fromisoformat(json.loads(values)["as_of"]))
            if as_of_us < mine.get(entity, 0):
                found.append(f"{view.name} of {entity!r} is published as of {as_of_us}, before an event that counts")
            if state is not None and (should := encode(view, world.rig.actual(view, as_of_us, [entity]), as_of_us)[0]) != values:
                found.append(f"{view.name} of {entity!r} is published as {values!r}, its state gives {should!r}")
    return found


def answers(view: View, ids: Sequence[str | int], values: Values) -> dict[str | int, list[oracle.Answer]]:
    """The kernel's values of these entities in the oracle's form."""
    found: dict[str | int, list[oracle.Answer]] = {}
    for row, entity in enumerate(ids):
        at, found[entity] = 0, []
        for i, feature in enumerate(view.features):
            time_us = int(values.event_times_us[row, i])
            found[entity].append(
                oracle.Answer(
                    tuple(values.values[row, at : at + feature.size].tolist()),
                    Status(int(values.statuses[row, i])).letter,
                    None if time_us == NO_TIME_US else time_us,
                )
            )
            at += feature.size
    return found


def _letters(world: World) -> list[str]:
    """Each record that is not folded stands among the dead letters, and no other."""
    expected = dict.fromkeys(world.poison, "undecodable")
    for view in world.project.views:
        for record, verdict in oracle.verdicts(view, {"trip": world.source}, world.records):
            position = f"{record.source}/{record.partition}/{record.offset}"
            world.happened["copies of events"] += verdict == "duplicate"
            if verdict == "future":
                expected[position] = verdict
            elif verdict == "late":
                expected[f"{position}/{view.id}"] = verdict
    found = {}
    for letter in world.rig.letters():
        reason = str(letter["reason"])
        found[str(letter["position"])] = reason if reason in ("future", "late") else "undecodable"
    for reason in expected.values():
        world.happened[f"records {reason}"] += 1
    return [f"dead letter {at}: {found.get(at)}, should be {expected.get(at)}" for at in sorted(found.keys() | expected.keys())
            if found.get(at) != expected.get(at)]  # fmt: skip
