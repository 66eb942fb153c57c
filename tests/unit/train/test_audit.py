"""Served == recomputed, and datasets of served bytes: from predictions that the scorer's own code wrote."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from histories import history_of
from replay import recompute
from trips import BEGIN_US, HOUR_US, PROJECT, SOURCES, events, spine

from featureflow.define import system
from featureflow.define.spec import DEFAULT_PROJECT, Call, Column, Field, Input, Literal, Project
from featureflow.define.version import with_version
from featureflow.errors import HistoryError, RequestError
from featureflow.kernel.decode import Decoder
from featureflow.kernel.derive import features_to_inputs
from featureflow.kernel.finalize import ViewKernel
from featureflow.serve.prediction_log import Applied, Predictions, encode
from featureflow.store.history.protocol import Statement
from featureflow.store.history.sql import SqlHistory
from featureflow.train.as_served import as_served, newest
from featureflow.train.audit import recompute_prediction, recompute_predictions

PREDICTIONS = system.predictions(DEFAULT_PROJECT)

VIEWS = tuple(PROJECT.view(name) for name in ("carrier_now", "origin_now", "aircraft_now"))
PARTITIONS, ROWS = 2, 60


@pytest.fixture
def history(sqlite_url: str) -> Iterator[SqlHistory]:
    with history_of(sqlite_url, (*SOURCES.values(), PREDICTIONS)) as store:
        for name, parts in WRITTEN.items():
            for part in parts:
                store.append(SOURCES[name], part.partition, part, 0, int(part.offsets[-1]) + 1)
        yield store


WRITTEN = {name: [events(20 + i, p, 200) for p in range(PARTITIONS)] for i, name in enumerate(SOURCES)}


def serve(seed: int = 1, rows: int = ROWS) -> list[Any]:
    """Predictions at random instants with random ``applied``: the stream was sometimes far behind, or ahead of the instant."""
    random, asked = np.random.default_rng(seed), spine(seed, rows)
    records = []
    for i in range(rows):
        q = int(asked["at"][i])      # type: ignore[call-overload]  # an int in this column
        applied = {
            v.name: {s: {p: int(random.integers(0, WRITTEN[s][p].offsets[-1] + 2)) for p in range(PARTITIONS)} for s in v.sources}
            for v in VIEWS
        }
        found = [
            recompute(ViewKernel(v, SOURCES), SOURCES, WRITTEN, [asked[v.join_key][i]], np.array([q]), applied[v.name])      # type: ignore[list-item]
            for v in VIEWS
        ]
        predictions = Predictions(
            asked_at_us=q, model="late", version="1", variant="fp32", provider="CPU",
            rows=[SimpleNamespace(      # type: ignore[list-item]  # of a row, encode reads these two
                entities={v.join_key: asked[v.join_key][i] for v in VIEWS}, context={"hour": asked["hour"][i], "kind": asked["kind"][i]}
            )],
            prediction_ids=[f"p{seed}-{i}"], request_ids=["r"], traces=[""], scores=[0.5],
            views={v.name: v.version for v in VIEWS}, applied=[Applied(view, [standing], [0]) for view, standing in applied.items()],
            features=np.concatenate([f.values for f in found], axis=1), statuses=np.concatenate([f.statuses for f in found], axis=1),
            degraded=[],
            texts=np.concatenate([strings for f in found for strings in f.texts.values()], axis=1).tolist(),
        )
        records += encode(predictions)
    return records


def log(history: SqlHistory, records: list[Any]) -> list[Mapping[str, Any]]:
    """Write them as the history writer would; the rows as SQL gives them."""
    decoded = Decoder(PREDICTIONS).decode([r.value for r in records], [r.key for r in records])
    assert decoded.refused == ()
    history.append(PREDICTIONS, 0, decoded.events, 0, len(records))
    ids = decoded.events.columns["prediction_id"].tolist()
    return [history.query("prediction", {"prediction_id": name})[0] for name in ids]


def test_every_served_feature_is_recomputed_to_the_bit(history: SqlHistory) -> None:
    audited = recompute_predictions(history, PROJECT, log(history, serve()))
    assert all(one.equal for one in audited)
    assert sum(one.compared for one in audited) == ROWS * sum(len(v.features) for v in VIEWS)


def test_one_bit_that_differs_is_found_and_named(history: SqlHistory) -> None:
    (row, *_) = log(history, serve())
    numbers = np.frombuffer(base64.b64decode(row["features"]), "<f8").copy()
    numbers[0:1].view(np.int64)[:] ^= 1
    audited = recompute_prediction(history, PROJECT, {**row, "features": base64.b64encode(numbers.tobytes()).decode()})
    assert [difference.feature for difference in audited.differences] == ["carrier_now:n_10m"]
    texts = msgspec.json.decode(row["texts"])
    one = recompute_prediction(history, PROJECT, {**row, "texts": msgspec.json.encode([*texts[:1], "x", *texts[2:]]).decode()})
    assert [(d.feature, d.served[0]) for d in one.differences] == [("aircraft_now:flown", "x")]
    missing = recompute_prediction(
        history, PROJECT, {**row, "features": base64.b64encode(numbers.tobytes()).decode(), "statuses": "m" + row["statuses"][1:]}
    )
    assert missing.equal, "what was served as missing was not computed from state, and is not judged"


def test_an_event_applied_or_not_makes_the_difference(history: SqlHistory) -> None:
    """Guards against an audit that ignores ``applied``."""
    rows = log(history, serve())
    shifted = []
    for row in rows:
        applied = msgspec.json.decode(row["applied"])
        for sources in applied.values():
            for partitions in sources.values():
                partitions.update(dict.fromkeys(partitions, 0))
        shifted.append({**row, "applied": msgspec.json.encode(applied).decode()})
    assert not all(one.equal for one in recompute_predictions(history, PROJECT, shifted))


def test_it_refuses_to_judge_where_history_has_not_come_as_far(history: SqlHistory) -> None:
    (row, *_) = log(history, serve())
    end = history.offsets("departure")[1]
    applied = msgspec.json.decode(row["applied"])
    applied["carrier_now"]["departure"]["1"] = end + 1
    ahead = {**row, "applied": msgspec.json.encode(applied).decode()}
    with pytest.raises(HistoryError, match=rf"departure/1 has come to {end}, and prediction 'p1-0' was made at {end + 1}"):
        recompute_prediction(history, PROJECT, ahead)


def test_it_refuses_to_judge_what_was_folded_before_history_began(history: SqlHistory) -> None:
    late = msgspec.structs.replace(SOURCES["departure"], name="departure")
    other = SqlHistory(str(history).split("'")[1].replace("history.db", "other.db"))
    other.migrate()
    for source in (late, SOURCES["arrival"], PREDICTIONS):
        other.ensure_source(source)
    other.create_offsets("departure", {0: 50, 1: 50})
    for p, part in enumerate(WRITTEN["departure"]):
        kept = part.take(np.flatnonzero(part.offsets >= 50))
        other.append(SOURCES["departure"], p, kept, 50, int(part.offsets[-1]) + 1)
    for p, part in enumerate(WRITTEN["arrival"]):
        other.append(SOURCES["arrival"], p, part, 0, int(part.offsets[-1]) + 1)
    position = {"view_id": VIEWS[0].id, "source": "departure", "partition_id": 0, "topic_id": "t", "beginning": 10}
    other.execute([Statement("plan_position", position)])
    rows = log(other, serve())
    with pytest.raises(HistoryError, match="history of departure/0 begins at 50, but the view was folded from 10"):
        recompute_predictions(other, PROJECT, rows)
    other.close()


def test_a_view_version_that_was_never_applied_is_named(history: SqlHistory) -> None:
    (row, *_) = log(history, serve())
    with pytest.raises(HistoryError, match="view version carrier_now@0000000000 was never applied"):
        recompute_prediction(history, PROJECT, {**row, "views": '{"carrier_now": "0000000000"}'})


def test_an_old_version_that_was_applied_once_is_still_recomputed(history: SqlHistory) -> None:
    rows = log(history, serve())
    changed = [v if v.name != "origin_now" else msgspec.structs.replace(v, version="ffffffffff") for v in PROJECT.views]
    now = msgspec.structs.replace(PROJECT, views=tuple(changed))
    old = PROJECT.view("origin_now")
    version = {"view_id": old.id, "state": "retired", "changed_at_us": 1, "definition": msgspec.json.encode(old).decode()}
    history.execute([Statement("record_view_version", version)])
    assert all(one.equal for one in recompute_predictions(history, now, rows))


# -- as served ---------------------------------------------------------------------------------------------------------

def test_an_old_version_is_recomputed_with_the_disorder_that_its_source_had_then(history: SqlHistory) -> None:
    row = log(history, serve())[0]
    history.execute([
        Statement("record_view_version", {
            "view_id": view.id, "state": "retired", "changed_at_us": 1, "definition": msgspec.json.encode(view).decode(),
        })
        for view in VIEWS
    ])
    history.execute([Statement("record_definition", {"applied_at_us": 1, "project": msgspec.json.encode(PROJECT).decode()})])
    strict = tuple(msgspec.structs.replace(source, disorder_us=0, future_us=0) for source in PROJECT.sources)
    by_name = {source.name: source for source in strict}
    views = tuple(with_version(view, by_name) for view in PROJECT.views)
    now = msgspec.structs.replace(PROJECT, sources=strict, views=views)
    assert not {view.id for view in views} & {view.id for view in VIEWS}
    assert recompute_prediction(history, now, row).equal
    assert recompute_prediction(history, msgspec.structs.replace(now, sources=(), views=()), row).equal


def test_a_dataset_as_served_holds_the_logged_bytes(history: SqlHistory) -> None:
    rows = log(history, serve())
    chosen = [rows[i]["prediction_id"] for i in (5, 3, 3, 59)]
    got = as_served(history, PROJECT, {"prediction_id": chosen, "late": [1, 0, 0, 1]}, model="late", label="late")
    assert not got.simulated
    assert got.labels is not None
    assert got.labels.tolist() == [1, 0, 0, 1]
    assert got.instants_us.tolist() == [rows[i]["asked_at"] for i in (5, 3, 3, 59)]
    kind = np.empty(4, dtype=object)
    kind[:] = [msgspec.json.decode(rows[i]["context"])["kind"] for i in (5, 3, 3, 59)]
    hour = np.array([msgspec.json.decode(rows[i]["context"])["hour"] for i in (5, 3, 3, 59)], float)
    inputs = features_to_inputs(PROJECT.model("late"), {**got.features, "ask:hour": hour, "ask:kind": kind})
    np.testing.assert_array_equal(got.inputs, inputs)
    for i, row in enumerate((5, 3, 3, 59)):
        logged = np.frombuffer(base64.b64decode(rows[row]["features"]), "<f8")
        at, texts = 0, msgspec.json.decode(rows[row]["texts"])
        for view in VIEWS:
            for feature in view.features:
                own = [texts.pop(0) for _ in range(feature.size)] if feature.is_text else logged[at:at + feature.size]
                if feature.reference in got.features:
                    mine = np.ascontiguousarray(got.features[feature.reference].reshape(len(got), -1)[i])
                    assert mine.tolist() == own if feature.is_text else mine.tobytes() == own.tobytes()
                at += feature.numbers


def test_the_newest_predictions_of_a_model_are_those_asked_last(history: SqlHistory) -> None:
    rows = sorted(log(history, serve()), key=lambda row: (row["asked_at"], row["prediction_id"]))
    assert newest(history, PROJECT, "late", 7) == [row["prediction_id"] for row in rows[-7:]]
    assert len(newest(history, PROJECT, "late", 10 * ROWS)) == ROWS
    assert newest(history, PROJECT, "other", 7) == []


def test_served_bytes_of_a_feature_that_is_calculated_otherwise_now_are_not_taken_for_it(history: SqlHistory) -> None:
    rows = log(history, serve(rows=5))
    ids = [row["prediction_id"] for row in sorted(rows, key=lambda row: (row["asked_at"], row["prediction_id"]))]
    old = PROJECT.view("origin_now")
    history.execute([Statement("record_view_version", {
        "view_id": old.id, "state": "retired", "changed_at_us": 1, "definition": msgspec.json.encode(old).decode()
    })])

    def now(**changes: Any) -> Project:
        """With ``worst`` otherwise."""
        changed = tuple(msgspec.structs.replace(a, **changes) if a.name == "worst" else a for a in old.aggregations)
        view = with_version(msgspec.structs.replace(old, aggregations=changed), SOURCES)
        return msgspec.structs.replace(PROJECT, views=tuple(view if v is old else v for v in PROJECT.views))

    wider = PROJECT.view("carrier_now").aggregations[0].windows
    assert newest(history, now(windows=wider), "late", 9) == ids == newest(history, PROJECT, "late", 9)
    assert len(as_served(history, now(windows=wider), {"prediction_id": ids}, model="late")) == 5
    delayed = now(where=Call("gt", (Column("delay"), Literal(1.0))))
    assert newest(history, delayed, "late", 9) == []
    with pytest.raises(RequestError, match="was made when another thing was calculated as origin_now:worst_1h"):
        as_served(history, delayed, {"prediction_id": ids}, model="late")


def test_the_newest_predictions_are_those_that_were_asked_with_what_is_read_now(history: SqlHistory) -> None:
    rows = log(history, serve(rows=5))
    more = Field(name="more", type="float")
    ask = msgspec.structs.replace(PROJECT.requests[0], fields=(*PROJECT.requests[0].fields, more))
    model = msgspec.structs.replace(PROJECT.models[0], inputs=(*PROJECT.models[0].inputs, Input(name="more", expr=Column("ask:more"))))
    now = msgspec.structs.replace(PROJECT, requests=(ask,), models=(model,))
    assert newest(history, now, "late", 9) == []
    nullable = msgspec.structs.replace(ask, fields=(*ask.fields[:-1], msgspec.structs.replace(more, nullable=True)))
    assert len(newest(history, msgspec.structs.replace(now, requests=(nullable,)), "late", 9)) == len(rows)


def test_a_prediction_that_is_not_in_history_is_named(history: SqlHistory) -> None:
    log(history, serve(rows=2))
    with pytest.raises(RequestError, match="'p9' is not in history"):
        as_served(history, PROJECT, [{"prediction_id": "p1-0"}, {"prediction_id": "p9"}], model="late")
    with pytest.raises(RequestError, match="no column 'prediction_id'"):
        as_served(history, PROJECT, [{"id": "p1-0"}], model="late")
    with pytest.raises(RequestError, match="no column 'late' of labels; it has prediction_id"):
        as_served(history, PROJECT, [{"prediction_id": "p1-0"}], model="late", label="late")


def test_a_prediction_made_without_a_feature_that_is_read_now_is_refused(history: SqlHistory) -> None:
    log(history, serve(rows=1))
    old = PROJECT.view("origin_now")
    history.execute([Statement("record_view_version", {
        "view_id": old.id, "state": "retired", "changed_at_us": 1, "definition": msgspec.json.encode(old).decode()
    })])
    renamed = [msgspec.structs.replace(a, name="worse") if a.name == "worst" else a for a in old.aggregations]
    new = msgspec.structs.replace(old, aggregations=tuple(renamed), version="ffffffffff")
    model = msgspec.structs.replace(PROJECT.models[0], inputs=(Input(name="worse", expr=Column("origin_now:worse_1h")),))
    views = tuple(new if v.name == "origin_now" else v for v in PROJECT.views)
    with pytest.raises(RequestError, match="made without origin_now:worse_1h"):
        as_served(history, msgspec.structs.replace(PROJECT, views=views, models=(model,)), [{"prediction_id": "p1-0"}], model="late")


def test_instants_of_predictions_lie_among_the_events() -> None:
    """The tests above would say little otherwise."""
    asked = np.array(spine(1, ROWS)["at"], np.int64)
    assert ((asked > BEGIN_US) & (asked < BEGIN_US + 24 * HOUR_US)).mean() > 0.6
