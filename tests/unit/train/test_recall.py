"""A past instant from history: events that are newer than it do not count, whatever windows a view has."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from histories import history_of
from trips import PROJECT, SOURCES, spine
from unit.train.test_dataset import PARTITIONS, fill, records

from featureflow.clock import NO_TIME_US
from featureflow.define.spec import View
from featureflow.kernel.finalize import Status, Values
from featureflow.store.history.sql import SqlHistory
from featureflow.train.recall import Question, recall
from oracle import Answer, answer, counting


@pytest.fixture
def history(sqlite_url: str) -> Iterator[SqlHistory]:
    with history_of(sqlite_url, SOURCES.values()) as store:
        yield store


@pytest.mark.parametrize("name", ["aircraft_now", "aircraft_ever"])
def test_a_lifetime_value_of_a_past_instant_is_of_the_events_up_to_it(history: SqlHistory, name: str) -> None:
    written, view = fill(history, 7), PROJECT.view(name)
    kinds = {source: {w.kind for a in view.aggregations if a.source == source for w in a.windows} for source in view.sources}
    alone = {source for source, of in kinds.items() if of == {"lifetime"}}
    assert alone
    asked = spine(7, 120)
    applied = {source: {p: int(written[source][p].offsets[-1]) + 1 for p in range(PARTITIONS)} for source in view.sources}
    ids: list[str] = asked["aircraft"]  # type: ignore[assignment]  # strings and None
    instants: list[int] = asked["at"]  # type: ignore[assignment]  # microseconds
    questions = [Question(one, q, applied, "a test asked") for one, q in zip(ids, instants, strict=True)]
    counted = counting(view, SOURCES, records(written))
    expected = []
    for one, q in zip(ids, instants, strict=True):
        mine = [r for r in counted if r.fields["aircraft"] == one and (r.source not in alone or r.time_us <= q)]
        expected.append(answer(view, mine, q))
    right = [_shown(one) for one in expected]
    found = recall(history, PROJECT, view, questions, cut=True)
    assert [_row(view, found, i) for i in range(len(questions))] == right
    assert sum(letter == "p" for row in right for _, letter, _ in row) > 50
    uncut = recall(history, PROJECT, view, questions)
    assert [_row(view, uncut, i) for i in range(len(questions))] != right, "as it was served then, by state that had folded newer events"


Row = list[tuple[tuple[str | None, ...], str, int | None]]


def _shown(answers: list[Answer]) -> Row:
    """Numbers as their bits."""
    return [(tuple(map(_bits, one.values)), one.status, one.event_time_us) for one in answers]


def _row(view: View, values: Values, i: int) -> Row:
    found: Row = []
    for place, feature in enumerate(view.features):
        cells = values.texts[place][i].tolist() if feature.is_text else values.values[i, view.spans[place]].tolist()
        time_us = int(values.event_times_us[i, place])
        found.append(
            (tuple(map(_bits, cells)), Status(int(values.statuses[i, place])).letter, None if time_us == NO_TIME_US else time_us)
        )
    return found


def _bits(value: float | str | None) -> str | None:
    return value if value is None or isinstance(value, str) else np.float64(value + 0.0).tobytes().hex()
