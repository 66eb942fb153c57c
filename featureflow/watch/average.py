"""The exponential moving average of an entity's scores, and whether its alert is raised: a pure fold over the score topic.

    average_1 = score_1        average_n = average * score_n + (1 - average) * average_(n-1)

The order is that of the score topic, and of no clock. An event that is scored once more (somebody has set the group back) changes nothing:
what was told of it stands.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from featureflow.define import spec
from featureflow.watch.score import Alert, Level, Score


class Average(Struct, frozen=True):
    """Of one rule and entity. ``seen``: partition of the source -> the offset of the newest event whose score is in it.

    ``event_time``: of the newest score's event.
    """

    value: float
    scores: int
    level: Level
    seen: dict[int, int]
    event_time: int


def fold(rule: spec.Alert, before: Average | None, score: Score) -> tuple[Average, Alert | None] | None:
    """The average with one more score, and the alert where its level changes; None where the score changes nothing.

    ``before`` None: the entity's first score. A score that the model did not give counts for nothing.
    """
    if score.score is None:
        return None
    if before is None:
        value, scores, level, seen = score.score, 1, "cleared", {score.partition: score.offset}
    else:
        if score.offset <= before.seen.get(score.partition, -1):
            return None
        value = rule.average * score.score + (1.0 - rule.average) * before.value
        scores, level, seen = before.scores + 1, before.level, {**before.seen, score.partition: score.offset}
    now: Level = level_of(rule, level == "raised", value)
    average = Average(value, scores, now, seen, score.event_time)
    return average, None if now == level else _alert(rule, now, value, score)


def level_of(rule: spec.Alert, raised: bool, value: float) -> Level:
    """Raised at the threshold and beyond, and then until it is below the lower one."""
    return "raised" if value >= (rule.until if raised else rule.above) else "cleared"


def key_of(rule: spec.Alert, entity_id: str) -> bytes:
    """What the average of this entity is known by. Another model, source or entity of the same name begins anew."""
    return msgspec.json.encode((rule.name, rule.model, rule.source, rule.entity, entity_id))


def _alert(rule: spec.Alert, level: Level, value: float, score: Score) -> Alert:
    assert score.score is not None
    return Alert(
        event_time=score.event_time,
        alert_id=f"{rule.name}/{score.source}/{score.partition}/{score.offset}/{level}",
        rule=rule.name,
        level=level,
        value=value,
        threshold=rule.above if level == "raised" else rule.until,
        score=score.score,
        model=score.model,
        model_version=score.model_version,
        entity=score.entity,
        id=score.id,
        source=score.source,
        partition=score.partition,
        offset=score.offset,
        features=score.features,
        degraded=score.degraded,
    )
