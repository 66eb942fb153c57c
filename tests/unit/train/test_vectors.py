"""Training sets of vectors and of sequences of one value."""

from __future__ import annotations

import numpy as np
from trips import BEGIN_US, HOUR_US, LIFETIME

from featureflow.define.spec import (
    Aggregation,
    Call,
    Column,
    Entity,
    Field,
    Input,
    Model,
    Project,
    Source,
    View,
    Window,
)
from featureflow.define.version import with_version
from featureflow.kernel.events import Events
from featureflow.kernel.field import column
from featureflow.store.history.sql import SqlHistory
from featureflow.train.dataset import dataset

FIELDS = (
    Field(name="at", type="datetime"),
    Field(name="user", type="str", entity="user"),
    Field(name="taste", type="vector", size=3, nullable=True),
    Field(name="one", type="vector", size=1),
    Field(name="word", type="str"),
)
VISIT = Source(name="visit", topic="visits", time_field="at", disorder_us=0, future_us=0, fields=FIELDS)
DAY = (Window(kind="sliding", length_us=24 * HOUR_US, text="1d"),)
VIEW = with_version(
    View(
        name="now", entity="user", join_key="user", keys={"visit": "user"}, ttl_us=48 * HOUR_US,
        aggregations=(
            Aggregation(name="taste", op="last", source="visit", value=Column("taste"), where=None, windows=DAY, vector=3),
            Aggregation(name="one", op="last", source="visit", value=Column("one"), where=None, windows=DAY, vector=1),
            Aggregation(
                name="word", op="last_n", source="visit", value=Column("word"), where=None, bare=True, width=8,
                windows=(LIFETIME,),
            ),
        ),
    ),
    {"visit": VISIT},
)  # fmt: skip
MODEL = Model(
    name="m", deadline_us=10_000, drift=0.1,
    inputs=(
        Input(name="taste", expr=Column("now:taste_1d"), size=3),
        Input(name="one", expr=Column("now:one_1d")),
        Input(name="average", expr=Call("seq_mean", (Column("now:one_1d"),))),
        Input(name="words", expr=Call("seq_len", (Column("now:word"),))),
    ),
)  # fmt: skip
PROJECT = Project(entities=(Entity(name="user", type="str"),), sources=(VISIT,), views=(VIEW,), models=(MODEL,))


def visits(partition: int, users: list[str]) -> Events:
    n = len(users)
    times = BEGIN_US + HOUR_US * np.arange(1, n + 1)
    values = {
        "at": times.tolist(), "user": users, "taste": [[i + 0.1, i + 0.2, i + 0.3] for i in range(n)], "one": [[i + 0.5] for i in range(n)],
        "word": users,
    }  # fmt: skip
    columns = {field.name: column(field, values[field.name]) for field in FIELDS}
    return Events(partition, np.arange(n), times, times, columns)


def test_a_partition_without_an_event_of_anyone_changes_nothing_and_one_value_is_a_sequence(sqlite_url: str) -> None:
    history = SqlHistory(sqlite_url)
    history.migrate()
    history.ensure_source(VISIT)
    for partition, users in enumerate((["ada", "bob", "ada"], [])):
        history.create_offsets("visit", {partition: 0})
        history.append(VISIT, partition, visits(partition, users), 0, len(users))
    try:
        spine = {"user": ["ada", "bob", "eve"], "at": [BEGIN_US + 10 * HOUR_US] * 3}
        made = dataset(history, PROJECT, spine, model="m", delay="0s")
    finally:
        history.close()
    assert made.input_names == ("taste[0]", "taste[1]", "taste[2]", "one", "average", "words")
    expected = [[2.1, 2.2, 2.3, 2.5, 2.5, 1.0], [1.1, 1.2, 1.3, 1.5, 1.5, 1.0], [np.nan] * 5 + [0.0]]
    np.testing.assert_array_equal(made.inputs, expected)
    assert made.features["now:one_1d"].shape == (3, 1)
