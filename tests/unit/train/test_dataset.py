"""A dataset holds what the scorer would have computed, to the bit."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest
from histories import history_of
from pyarrow import parquet
from replay import recompute
from trips import BEGIN_US, HOUR_US, PROJECT, REFERENCES, SOURCES, VIEWS, events, spine

from featureflow.define.spec import Source
from featureflow.errors import RequestError
from featureflow.kernel.derive import features_to_inputs
from featureflow.kernel.events import Events
from featureflow.kernel.finalize import Status, ViewKernel
from featureflow.store.history.sql import SqlHistory
from featureflow.train import gather, point_in_time
from featureflow.train.dataset import Dataset, dataset
from oracle import Record, answers, counting

PARTITIONS = 3
KNOWN = {"departure": "known", "arrival": "known"}


@pytest.fixture
def history(sqlite_url: str) -> Iterator[SqlHistory]:
    with history_of(sqlite_url, SOURCES.values()) as store:
        yield store


def fill(history: SqlHistory, seed: int, *, n: int = 150, append_time: bool = True) -> dict[str, list[Events]]:
    written = {
        name: [events(seed + number, partition, n, append_time=append_time) for partition in range(PARTITIONS)]
        for number, name in enumerate(SOURCES)
    }
    for name, parts in written.items():
        for part in parts:
            history.append(SOURCES[name], part.partition, part, 0, int(part.offsets[-1]) + 1)
    return written


def records(written: Mapping[str, list[Events]]) -> list[Record]:
    found = []
    for name, parts in written.items():
        for part in parts:
            for i in range(len(part)):
                fields = {key: column[i] for key, column in part.columns.items()}
                fields = {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in fields.items()}
                times = int(part.times_us[i]), int(part.timestamps_us[i])
                found.append(Record(name, part.partition, int(part.offsets[i]), *times, fields, part.append_time))
    return found


LENIENT: dict[str, Source] = {
    name: msgspec.structs.replace(source, disorder_us=2**60, future_us=2**60) for name, source in SOURCES.items()
}


def check_against_oracle(
    got: Dataset,
    written: Mapping[str, list[Events]],
    rows: Mapping[str, list[object]],
    delay_us: int | None,
    sources: Mapping[str, Source] = SOURCES,
) -> int:
    """Compare every feature of every row; how many were computed from events."""
    everything, present = records(written), 0
    for view in VIEWS:
        kept = counting(view, sources, everything)
        for i, (entity, q) in enumerate(zip(rows[view.join_key], rows["at"], strict=True)):
            assert isinstance(q, int)
            if delay_us is None:
                seen = [r for r in kept if r.fields["known"] is not None and r.fields["known"] <= q]
            else:
                seen = [r for r in kept if r.time_us + delay_us <= q]
            wanted = answers(view, LENIENT, seen, entity, q)      # type: ignore[arg-type]  # ids are str, int or None here
            for feature, answer in zip(view.features, wanted, strict=True):
                values = got.features[feature.reference].reshape(len(rows["at"]), -1)[i]
                told = (feature.reference, entity, q, values, answer)
                if feature.aggregation.op.startswith("approx") and answer.status == "p":
                    np.testing.assert_allclose(values, answer.values, rtol=3 * feature.aggregation.error, atol=1, err_msg=str(told))
                    equal = True
                elif feature.is_text:
                    equal = tuple(values) == answer.values
                else:
                    equal = values.tobytes() == np.array(answer.values).tobytes()
                equal |= answer.error > 0 and abs(values[0] - answer.values[0]) <= answer.error
                assert equal, told
                assert Status(int(got.statuses[feature.reference][i])).letter == answer.status, (feature.reference, entity, q)
                present += answer.status == "p"
    return present


@pytest.mark.parametrize("append_time", [True, False])
@pytest.mark.parametrize("seed", [1, 2])
def test_every_feature_equals_the_oracle_where_a_field_says_when_events_were_known(
    history: SqlHistory, seed: int, append_time: bool
) -> None:
    written, rows = fill(history, seed, append_time=append_time), spine(seed, 80)
    # without a broker's timestamp a quiet hour must not make what follows it come from the future
    sources = {name: s if append_time else msgspec.structs.replace(s, future_us=2 * HOUR_US) for name, s in SOURCES.items()}
    project = msgspec.structs.replace(PROJECT, sources=tuple(sources.values()))
    got = dataset(history, project, rows, features=REFERENCES, known_at=KNOWN)
    assert check_against_oracle(got, written, rows, None, sources) > 400
    assert got.simulated


@pytest.mark.parametrize(("delay", "delay_us"), [("0s", 0), ("15m", HOUR_US // 4)])
def test_every_feature_equals_the_oracle_where_events_are_known_after_a_delay(
    history: SqlHistory, delay: str, delay_us: int
) -> None:
    written, rows = fill(history, 3), spine(3, 80)
    got = dataset(history, PROJECT, rows, features=REFERENCES, delay=delay)
    assert check_against_oracle(got, written, rows, delay_us) > 400


def test_pages_groups_and_chunks_do_not_change_a_bit(history: SqlHistory, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(history, 4)
    rows = spine(4, 300)
    whole = dataset(history, PROJECT, rows, features=REFERENCES, known_at=KNOWN)
    monkeypatch.setattr(gather, "PAGE_ROWS", 2)
    monkeypatch.setattr(point_in_time, "TREE_BYTES", 20_000)
    monkeypatch.setattr(point_in_time, "CHUNK_BYTES", 30_000)
    cut = dataset(history, PROJECT, rows, features=REFERENCES, known_at=KNOWN)
    assert cut.inputs.tobytes() == whole.inputs.tobytes()
    for reference in REFERENCES:
        np.testing.assert_array_equal(cut.statuses[reference], whole.statuses[reference])


def test_it_equals_what_the_stream_would_have_given_had_it_been_as_far_as_was_known(history: SqlHistory) -> None:
    """Where knowing goes in offset order, visibility is an offset, and the kernel's replay of the stream must agree."""
    written = fill(history, 5)
    ordered = {
        name: [dataclasses.replace(p, columns={**p.columns, "known": p.timestamps_us.astype(np.float64)}) for p in parts]
        for name, parts in written.items()
    }
    sources = {name: msgspec.structs.replace(source, name=f"{name}") for name, source in SOURCES.items()}
    rows = spine(5, 150)
    q = np.array(rows["at"], np.int64)
    got = dataset(_Scripted(history, ordered), PROJECT, rows, features=REFERENCES, known_at=KNOWN)      # type: ignore[arg-type]  # reads only
    for view in VIEWS:
        applied = {
            name: {
                p.partition: np.append(p.offsets, p.offsets[-1] + 1)[np.searchsorted(p.timestamps_us, q, side="right")] for p in parts
            }
            for name, parts in ordered.items()
        }
        wanted = recompute(ViewKernel(view, sources), sources, ordered, rows[view.join_key], q, applied)      # type: ignore[arg-type]  # ids
        values = np.concatenate([got.features[f.reference].reshape(len(q), -1) for f in view.features if not f.is_text], axis=1)
        assert values.tobytes() == wanted.values.tobytes()
        for place, strings in wanted.texts.items():
            assert got.features[view.features[place].reference].reshape(len(q), -1).tolist() == strings.tolist()
        np.testing.assert_array_equal(np.stack([got.statuses[f.reference] for f in view.features], axis=1), wanted.statuses)


class _Scripted:
    """A history that gives these events, for reading."""

    def __init__(self, history: SqlHistory, written: Mapping[str, list[Events]]) -> None:
        self._written = written
        self.extents, self.refused, self.query = history.extents, history.refused, history.query

    def scan(self, source: Source, *, partition: int, **bounds: object) -> Iterator[object]:
        from featureflow.store.history.protocol import HistoryPage

        part = self._written[source.name][partition]
        yield HistoryPage(partition, int(part.offsets[-1]) + 1, part)


# -- the model's inputs ------------------------------------------------------------------------------------------------

def test_a_models_inputs_are_derived_as_the_scorer_derives_them(history: SqlHistory) -> None:
    fill(history, 6)
    rows = spine(6, 120)
    got = dataset(history, PROJECT, rows, model="late", known_at=KNOWN, label="label")
    assert got.input_names == ("trend", "worst", "delays[0]", "delays[1]", "delays[2]", "delays[3]", "hour", "charter")
    kind = np.empty(120, dtype=object)
    kind[:] = rows["kind"]
    columns = {**got.features, "ask:hour": np.array(rows["hour"], float), "ask:kind": kind}
    np.testing.assert_array_equal(got.inputs, features_to_inputs(PROJECT.model("late"), columns))
    assert got.labels is not None
    assert got.labels.tolist() == rows["label"]
    assert got.views == {name: PROJECT.view(name).version for name in ("carrier_now", "origin_now", "aircraft_now")}
    assert not np.isnan(got.inputs[:, 0]).any(), "trend has a default"


def test_a_row_never_sees_an_event_that_was_not_known_yet(history: SqlHistory) -> None:
    """One event at 10:00, known at 10:30: at 10:29:59 there is none."""
    part = events(1, 0, 1)
    part.times_us[:], part.timestamps_us[:] = BEGIN_US, BEGIN_US + HOUR_US
    part.columns["known"][:] = BEGIN_US + HOUR_US / 2
    part.columns["carrier"][:] = ["AA"]
    history.append(SOURCES["departure"], 0, part, 0, 100)
    rows = {"at": [BEGIN_US + HOUR_US // 2 - 1, BEGIN_US + HOUR_US // 2], "carrier": ["AA", "AA"]}
    got = dataset(history, PROJECT, rows, features=["carrier_now:n_6h"], known_at=KNOWN)
    assert got.inputs.ravel().tolist() == [0.0, 1.0]
    part.columns["known"][:] = np.nan
    history.append(SOURCES["departure"], 1, dataclasses.replace(part, partition=1), 0, 100)
    again = dataset(history, PROJECT, rows, features=["carrier_now:n_6h"], known_at=KNOWN)
    assert again.inputs.ravel().tolist() == [0.0, 1.0], "an event that nobody ever knew is never seen"


def test_an_empty_spine_and_an_empty_history_give_empty_answers_of_the_right_shape(history: SqlHistory) -> None:
    nothing = {name: [] for name in spine(1, 1)}
    assert dataset(history, PROJECT, nothing, model="late", delay="1s").inputs.shape == (0, 8)
    got = dataset(history, PROJECT, spine(1, 5), features=["carrier_now:n_1h", "aircraft_now:delays"], delay="1s")
    assert got.inputs.shape == (5, 5)
    assert (got.inputs[:, 0] == 0).all()
    assert np.isnan(got.inputs[:, 1:]).all()


# -- what is refused ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"model": "late"}, "nothing says when an event of 'departure' could have been known"),
        ({"model": "late", "known_at": {"departure": "known"}}, "nothing says when an event of 'arrival'"),
        ({"model": "late", "known_at": {**KNOWN, "arrival": "delay"}}, "no datetime field"),
        ({"model": "late", "known_at": {**KNOWN, "arival": "known"}}, "there is no event 'arival'; there are"),
        ({"model": "late", "delay": {"departur": "5s"}}, "there is no event 'departur'"),
        ({"model": "late", "delay": "5 s"}, "the delay is '5 s'; write a whole number"),
        ({"model": "late", "delay": f"{10**12}d"}, "such as 5s, up to"),
        ({"model": "late", "delay": "soon"}, "write a whole number and one of"),
        ({"model": "later", "delay": "1s"}, "there is no model 'later'; the project has late"),
        ({"features": ["carrier_now:n_2h"], "delay": "1s"}, "there is no feature 'carrier_now:n_2h'"),
        ({"delay": "1s"}, "say either the model"),
        ({"model": "late", "delay": "1s", "label": "late"}, "it has no column 'late'"),
    ],
)
def test_what_cannot_be_asked_says_what_to_write(history: SqlHistory, arguments: dict[str, object], says: str) -> None:
    with pytest.raises(RequestError) as caught:
        dataset(history, PROJECT, spine(1, 3), **arguments)      # type: ignore[arg-type]  # wrong on purpose
    assert says in caught.value.detail


@pytest.mark.parametrize("unit_us", [1_000_000, 1_000])
def test_instants_in_seconds_or_milliseconds_are_refused_where_history_begins_later(history: SqlHistory, unit_us: int) -> None:
    rows = spine(1, 3)
    rows = {**rows, "at": [at // unit_us for at in rows["at"]]}  # type: ignore[operator]  # integers
    nothing_known = dataset(history, PROJECT, rows, model="late", delay="1s")
    assert len(nothing_known) == 3, "without an event nothing says that an old instant was not meant"
    fill(history, 1)
    with pytest.raises(RequestError) as caught:
        dataset(history, PROJECT, rows, model="late", delay="1s")
    assert f"'at' is {rows['at'][0]}, which reads as 1970-01-" in caught.value.detail
    assert "integers are microseconds since 1970" in caught.value.detail


def test_old_instants_stand_where_history_is_as_old(history: SqlHistory) -> None:
    part = events(1, 0, 10)
    old = dataclasses.replace(part, times_us=part.times_us - BEGIN_US, timestamps_us=part.timestamps_us - BEGIN_US)
    history.append(SOURCES["departure"], 0, old, 0, int(part.offsets[-1]) + 1)
    rows = {**spine(1, 2), "at": [0, 1_700_000_000]}
    assert len(dataset(history, PROJECT, rows, model="late", delay="1s")) == 2


def test_old_instants_stand_where_one_row_is_as_new_as_history(history: SqlHistory) -> None:
    fill(history, 1)
    rows = spine(1, 3)
    rows = {**rows, "at": [0, 1, BEGIN_US + HOUR_US]}
    assert len(dataset(history, PROJECT, rows, model="late", delay="1s")) == 3


# -- what is done with it ----------------------------------------------------------------------------------------------

@pytest.fixture
def made(history: SqlHistory) -> Dataset:
    fill(history, 8)
    return dataset(history, PROJECT, spine(8, 100), model="late", known_at=KNOWN, label="label")


def test_a_split_by_time_keeps_rows_of_one_instant_together(made: Dataset) -> None:
    train, test = made.split(0.8)
    assert len(train) + len(test) == 100
    assert train.instants_us.max() < test.instants_us.min()
    at = datetime.fromtimestamp((BEGIN_US + 5 * HOUR_US) / 1e6, UTC)
    before, after = made.split(at)
    assert before.instants_us.max() < BEGIN_US + 5 * HOUR_US <= after.instants_us.min()
    same = made.take(np.zeros(10, np.intp))
    assert [len(part) for part in same.split(0.5)] == [0, 10]
    with pytest.raises(RequestError):
        made.split(1.5)


def test_frames_and_files_hold_the_same_bits(made: Dataset, tmp_path: Path) -> None:
    frame = made.to_pandas()
    assert frame.attrs["simulated"] is True
    np.testing.assert_array_equal(frame[list(made.input_names)].to_numpy(), made.inputs)
    made.to_parquet(tmp_path / "set.parquet")
    table = parquet.read_table(tmp_path / "set.parquet")
    for i, name in enumerate(made.input_names):
        np.testing.assert_array_equal(table.column(name).to_numpy(), made.inputs[:, i])
    assert msgspec.json.decode(table.schema.metadata[b"featureflow"])["simulated"] is True
    np.testing.assert_array_equal(table.column("at").cast("int64").to_numpy(), made.instants_us)
    made.to_csv(tmp_path / "set.csv")
    with (tmp_path / "set.csv").open() as file:
        rows = list(csv.DictReader(file))
    for i, name in enumerate(made.input_names):
        np.testing.assert_array_equal([float(row[name] or "nan") for row in rows], made.inputs[:, i])
    assert datetime.fromisoformat(rows[0]["at"]) == pd.Timestamp(made.instants_us[0], unit="us", tz="UTC")


def test_progress_ends_at_its_total(history: SqlHistory) -> None:
    fill(history, 9)
    said: list[tuple[str, int, int]] = []
    dataset(history, PROJECT, spine(9, 10), model="late", known_at=KNOWN, progress=lambda *step: said.append(step))
    assert said[-1] == ("joining views", 3, 3)
