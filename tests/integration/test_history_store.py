"""The history store's contract, on SQLite and on the real MySQL alike."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
import sqlalchemy
from histories import history_of
from sqlalchemy import make_url
from trips import DEPARTURE, FIELDS, events

from featureflow.define import system
from featureflow.define.spec import DEFAULT_PROJECT, Field, Source
from featureflow.errors import HistoryError, OffsetConflictError, SettingsError, UnavailableError
from featureflow.kernel.events import Events
from featureflow.store.history.protocol import Extent, Statement
from featureflow.store.history.sql import SqlHistory

COLUMNS = tuple(field.name for field in FIELDS)


@pytest.fixture
def history(history_url: str) -> Iterator[SqlHistory]:
    with history_of(history_url) as store:
        yield store


def everything(history: SqlHistory, source: Source, partition: int, **bounds: int) -> list[Events]:
    return [page.events for page in history.scan(source, partition=partition, columns=[f.name for f in source.fields], **bounds)]


def same_column(a: object, b: object) -> None:
    np.testing.assert_array_equal(a, b)


def test_what_is_appended_is_read_back_to_the_bit(history: SqlHistory) -> None:
    random = np.random.default_rng(7)
    given = events(1, 0, 500)
    bits = random.integers(0, 2**63, 500, dtype=np.int64) ^ (random.integers(0, 2, 500) << 63)
    numbers = bits.view(np.float64)
    given.columns["delay"][:] = np.where(np.abs(numbers) < 2.0**63, numbers, np.nan)
    given.columns["delay"][:6] = [5e-324, 2.0**63 - 1024, -(2.0**-1074), 0.1, 1 / 3, 1e22]
    history.append(DEPARTURE, 0, given, 0, 2_000)
    (got,) = everything(history, DEPARTURE, 0)
    for name in ("offsets", "times_us", "timestamps_us"):
        same_column(getattr(got, name), getattr(given, name))
    for name in COLUMNS:
        same_column(got.columns[name], given.columns[name])
    finite = ~np.isnan(given.columns["delay"])
    same_column(got.columns["delay"][finite].view(np.int64), given.columns["delay"][finite].view(np.int64))
    assert got.append_time and got.partition == 0


def test_a_scan_in_pages_gives_each_event_once_and_in_order(history: SqlHistory) -> None:
    given = events(2, 3, 300)
    history.append(DEPARTURE, 3, given, 0, int(given.offsets[-1]) + 1)
    pages = list(history.scan(DEPARTURE, partition=3, columns=["carrier"], page_rows=37))
    same_column(np.concatenate([page.events.offsets for page in pages]), given.offsets)
    assert all(page.next == page.events.offsets[-1] + 1 for page in pages)
    low, high = int(given.offsets[50]), int(given.offsets[90])
    (part,) = everything(history, DEPARTURE, 3, from_offset=low, to_offset=high)
    same_column(part.offsets, given.offsets[50:90])


def test_a_page_is_cut_where_the_kind_of_timestamp_changes(history: SqlHistory) -> None:
    first, second = events(1, 0, 10), replace(events(2, 0, 10), append_time=False)
    second = replace(second, offsets=second.offsets + 1_000)
    history.append(DEPARTURE, 0, first, 0, 1_000)
    history.append(DEPARTURE, 0, second, 1_000, 2_000)
    assert [(len(e), e.append_time) for e in everything(history, DEPARTURE, 0)] == [(10, True), (10, False)]


def test_offsets_move_with_the_rows_and_only_from_where_they_stand(history: SqlHistory) -> None:
    given = events(1, 0, 10)
    assert history.offsets("departure") == {}
    history.append(DEPARTURE, 0, given, 0, 100)
    assert history.offsets("departure") == {0: 100}
    for wrong in (0, 50, 101):
        with pytest.raises(OffsetConflictError, match="stands at 100"):
            history.append(DEPARTURE, 0, given, wrong, 200)
    with pytest.raises(OffsetConflictError, match="no offset"):
        history.append(DEPARTURE, 1, given, 7, 200)
    assert sum(map(len, everything(history, DEPARTURE, 0))) == 10
    history.append(DEPARTURE, 0, given.take(np.zeros(0, np.intp)), 100, 150)
    assert history.extents("departure") == {0: Extent(0, 150)}


def test_a_partition_starts_where_it_was_told_to_and_is_not_started_twice(history: SqlHistory) -> None:
    assert history.create_offsets("departure", {0: 40, 1: 0}) == [0, 1]
    assert history.create_offsets("departure", {0: 90, 2: 5}) == [2]
    assert history.extents("departure") == {0: Extent(40, 40), 1: Extent(0, 0), 2: Extent(5, 5)}


def test_rows_that_do_not_fit_leave_the_offset_where_it_was(history: SqlHistory) -> None:
    given = events(1, 0, 10)
    history.append(DEPARTURE, 0, given, 0, 1_000)
    with pytest.raises(HistoryError, match="holds such a row already"):
        history.append(DEPARTURE, 0, given, 1_000, 2_000)
    assert history.offsets("departure") == {0: 1_000}


def test_ids_compare_by_byte(history: SqlHistory, history_url: str) -> None:
    """'AA', 'aa' and 'AA ' are three carriers, whatever a database's collation thinks of case and spaces."""
    given = events(3, 0, 200)
    history.append(DEPARTURE, 0, given, 0, 1_000)
    engine = sqlalchemy.create_engine(history_url)
    with engine.connect() as connection:
        counted = dict(connection.exec_driver_sql("SELECT carrier, COUNT(*) FROM ev_departure GROUP BY carrier").all())
    engine.dispose()
    counts = Counter(given.columns["carrier"].tolist())
    assert len(counted) == 5
    assert sorted(counted.values()) == sorted(counts.values())


def test_many_zombie_writers_leave_each_event_once(history_url: str, history: SqlHistory) -> None:
    """Eight writers, as after botched rebalances, all write the whole partition; each batch is written by one of them."""
    given = events(5, 0, 600)
    cuts = list(range(0, 601, 30))
    written: list[int] = []

    def write() -> None:
        own = SqlHistory(history_url)
        for a, b in pairwise(cuts):
            try:
                own.append(DEPARTURE, 0, given.take(np.arange(a, b)), a, b)
                written.append(a)
            except OffsetConflictError:
                pass
        own.close()

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(written) == cuts[:-1]
    same_column(np.concatenate([e.offsets for e in everything(history, DEPARTURE, 0)]), given.offsets)


def test_a_new_nullable_field_becomes_a_column_and_old_events_have_null_there(history: SqlHistory) -> None:
    given = events(1, 0, 20)
    history.append(DEPARTURE, 0, given, 0, 100)
    wider = msgspec.structs.replace(DEPARTURE, fields=(*FIELDS, Field(name="gate", type="str", nullable=True)))
    history.ensure_source(wider)
    history.ensure_source(wider)
    more = replace(given, offsets=given.offsets + 100, columns={**given.columns, "gate": np.array(["B7"] * 20, dtype=object)})
    history.append(wider, 0, more, 100, 200)
    (got,) = everything(history, wider, 0)
    assert got.columns["gate"].tolist() == [None] * 20 + ["B7"] * 20
    history.append(DEPARTURE, 0, replace(given, offsets=given.offsets + 200), 200, 300)      # a writer of the old definition
    assert history.offsets("departure") == {0: 300}


VISIT = Source(
    name="visit", topic="visits", time_field="at", disorder_us=0, future_us=0,
    fields=(
        Field(name="at", type="datetime"),
        Field(name="channel", type="str", categories=("app", "web")),
        Field(name="taste", type="vector", size=128),
        Field(name="mood", type="vector", size=2, nullable=True),
    ),
)  # fmt: skip


def visits(n: int) -> Events:
    random = np.random.default_rng(11)
    bits = random.integers(0, 2**63, (n, 128), dtype=np.int64) ^ (random.integers(0, 2, (n, 128)) << 63)
    numbers = bits.view(np.float64)
    mood = random.normal(size=(n, 2))
    mood[::3] = np.nan
    at = np.arange(n, dtype=np.int64)
    channel = np.array(["app", "web"], dtype=object)[random.integers(0, 2, n)]
    taste = np.where(np.abs(numbers) < 2.0**63, numbers, 5e-324) + 0.0
    return Events(0, at, at, at, {"at": at.astype(np.float64), "channel": channel, "taste": taste, "mood": mood})


def test_vectors_and_categories_are_read_back_to_the_bit(history: SqlHistory) -> None:
    history.ensure_source(VISIT)
    history.ensure_source(VISIT)
    given = visits(300)
    history.append(VISIT, 0, given, 0, 300)
    (got,) = everything(history, VISIT, 0)
    assert got.columns["taste"].tobytes() == given.columns["taste"].tobytes()
    assert got.columns["mood"].tobytes() == given.columns["mood"].tobytes()
    assert got.columns["channel"].tolist() == given.columns["channel"].tolist()


def test_what_the_field_no_longer_takes_is_no_event_of_the_new_definition(history: SqlHistory) -> None:
    history.ensure_source(VISIT)
    given = visits(30)
    history.append(VISIT, 0, given, 0, 30)

    def read(**changes: Field) -> list[int]:
        fields = tuple(changes.get(field.name, field) for field in VISIT.fields)
        changed = msgspec.structs.replace(VISIT, fields=fields)
        history.ensure_source(changed)
        (got,) = everything(history, changed, 0)
        return got.offsets.tolist()

    app = np.flatnonzero(given.columns["channel"] == "app").tolist()
    assert read(channel=Field(name="channel", type="str", categories=("app", "tv"))) == app
    assert read(channel=Field(name="channel", type="str", categories=("app", "tv", "web"))) == list(range(30))
    assert read(channel=Field(name="channel", type="str")) == list(range(30))
    assert read(mood=Field(name="mood", type="vector", size=3, nullable=True)) == list(range(0, 30, 3))
    assert read(mood=Field(name="mood", type="vector", size=2)) == [i for i in range(30) if i % 3]
    with pytest.raises(HistoryError, match=r"visit\.taste is now a float, but table ev_visit holds it as a vector"):
        read(taste=Field(name="taste", type="float"))


def test_an_event_stored_before_a_required_field_existed_is_no_event_of_the_new_definition(history: SqlHistory) -> None:
    given = events(1, 0, 20)
    history.append(DEPARTURE, 0, given, 0, 100)
    wider = msgspec.structs.replace(DEPARTURE, fields=(*FIELDS, Field(name="gate", type="int"), Field(name="pier", type="str")))
    history.ensure_source(wider)
    assert sum(map(len, everything(history, wider, 0))) == 0
    assert sum(len(page.events) for page in history.scan(wider, partition=0, columns=["carrier"])) == 20


def test_a_field_that_changes_its_type_is_refused_before_anything_is_changed(history: SqlHistory) -> None:
    fields = tuple(Field(name="delay", type="str") if f.name == "delay" else f for f in FIELDS)
    changed = msgspec.structs.replace(DEPARTURE, fields=(*fields, Field(name="gate", type="str", nullable=True)))
    with pytest.raises(HistoryError, match=r"departure\.delay is now a str, but table ev_departure holds it as a float; give the field"):
        history.ensure_source(changed)
    history.append(DEPARTURE, 0, events(1, 0, 5), 0, 100)


def test_a_string_that_may_be_longer_now_is_stored_whole(history: SqlHistory) -> None:
    longer = tuple(msgspec.structs.replace(f, max_bytes=500_000) if f.name == "note" else f for f in FIELDS)
    wider = msgspec.structs.replace(DEPARTURE, fields=longer)
    history.ensure_source(wider)
    given = events(1, 0, 2)
    given.columns["note"][:] = ["\N{SNOWMAN}" * 100_000, "short"]
    history.append(wider, 0, given, 0, 100)
    assert everything(history, wider, 0)[0].columns["note"].tolist() == given.columns["note"].tolist()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ((Field(name="_partition", type="int"),), "kept for the record's own columns"),
        ((Field(name="gate", type="int"), Field(name="Gate", type="int")), "differ only in case"),
        ((Field(name="g" * 65, type="int"),), "longer than 64"),
    ],
)
def test_names_that_cannot_stand_in_a_table_are_refused(history: SqlHistory, fields: tuple[Field, ...], says: str) -> None:
    with pytest.raises(HistoryError, match=says):
        history.ensure_source(msgspec.structs.replace(DEPARTURE, name="other", fields=(*FIELDS, *fields)))


def test_field_names_may_be_words_of_sql(history: SqlHistory) -> None:
    words = ("select", "order", "offset", "partition", "group", "key", "index", "percent%s")
    fields = (FIELDS[0], *(Field(name=word, type="int") for word in words))
    source = Source(name="table", topic="t", time_field="at", disorder_us=0, future_us=0, fields=fields)
    history.ensure_source(source)
    times = np.arange(3)
    given = Events(0, times, times, times, {"at": times * 1.0, **{word: times + i * 10.0 for i, word in enumerate(words)}})
    history.append(source, 0, given, 0, 3)
    (got,) = everything(history, source, 0)
    for i, word in enumerate(words):
        same_column(got.columns[word], times + i * 10.0)


def test_the_systems_own_sources_are_ordinary_ones(history: SqlHistory) -> None:
    for source in system.system_sources(DEFAULT_PROJECT):
        history.ensure_source(source)
    assert history.query("dead_letter_counts", {}) == []
    assert history.query("prediction", {"prediction_id": "p"}) == []


def test_statements_that_write_are_one_transaction(history: SqlHistory) -> None:
    row = {"source": "a", "topic": "a", "topic_id": "1", "partitions": 1}
    with pytest.raises(HistoryError):
        history.execute([Statement("record_topic", row), Statement("record_topic", row)])
    assert history.query("topic", {"source": "a"}) == []
    history.execute([Statement("record_topic", row)])
    assert history.query("topic", {"source": "a"}) == [row]


def _migrate(url: str) -> None:
    with history_of(url):
        pass


def test_several_processes_may_migrate_at_once(history_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_migrate, args=(history_url,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]


@pytest.mark.parametrize("exists", [False, True])
def test_two_that_prepare_a_source_at_once_make_each_table_and_column_once(history_url: str, exists: bool) -> None:
    """Each waits, with the table or column that it has found to be absent, for the other to come as far; a lock keeps that one out."""
    given = msgspec.structs.replace(DEPARTURE, fields=(*FIELDS, Field(name="gate", type="str", nullable=True)))
    stores, problems = [SqlHistory(history_url) for _ in range(2)], []
    stores[0].migrate()
    if exists:
        stores[0].ensure_source(DEPARTURE)
    met = threading.Barrier(2)

    def meet(*_: object) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            met.wait(1)

    def prepare(store: SqlHistory) -> None:
        try:
            store.ensure_source(given)
        except Exception as problem:
            problems.append(problem)

    def before(connection: object, cursor: object, statement: str, *_: object) -> None:
        if statement.lstrip().startswith("ALTER TABLE" if exists else "CREATE TABLE"):
            meet()

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", before)
    try:
        threads = [threading.Thread(target=prepare, args=(store,)) for store in stores]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", before)
    assert problems == []
    for store in stores:
        store.close()


def test_a_table_that_is_not_there_is_an_error_that_says_what_to_run(history_url: str) -> None:
    store = SqlHistory(history_url)
    with pytest.raises(HistoryError, match=r"history\.url.*featureflow apply"):
        store.offsets("departure")
    store.close()


def test_a_server_that_is_down_is_unavailable_and_the_error_hides_the_password() -> None:
    store = SqlHistory("mysql://me:secret@127.0.0.1:1/db", setting="history.url")
    with pytest.raises(UnavailableError, match=r"history\.url") as caught:
        store.ping()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://x/y", "the database 'postgresql'"),
        ("not a url", "is not a database URL"),
        ("sqlite://", "must name a file"),
        ("sqlite:///:memory:", "must name a file"),
        ("mysql://me:hidden@h:x/db", "is not a database URL"),
        ("mysql://me:hidden@h:66000/db", "has the port 66000"),
        ("mysql://me:p@hidden@h:3306/db", "has an @ too many: in a user name or password write it as %40"),
        ("mysql://me:hidden@h/db?nope=1", "has no option 'nope'"),
        ("mysql://me:hidden@h/db?ssl_ca=/not/there.pem", "ssl_ca=/not/there.pem, which is no file"),
        ("mysql://me:hidden@h/db?ssl_cert=/not/there.pem", "ssl_cert=/not/there.pem, which is no file"),
        ("mysql://me:hidden@h/db?connect_timeout=soon", "has an option that cannot be"),
    ],
)
def test_a_url_that_cannot_hold_history_is_refused(url: str, said: str) -> None:
    with pytest.raises(SettingsError, match=rf"history\.url.*{said}") as caught:
        SqlHistory(url)
    assert "hidden" not in str(caught.value)


def test_a_login_that_is_refused_is_not_taken_for_a_missing_table(mysql_url: str) -> None:
    store = SqlHistory(make_url(mysql_url).set(username="nobody", password="hidden").render_as_string(hide_password=False))
    with pytest.raises(HistoryError, match=r"Access denied.*Correct user and password in history\.url") as caught:
        store.query("newest_definition", {})
    store.close()
    assert "featureflow apply" not in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_a_database_that_does_not_exist_is_not_taken_for_a_missing_table(mysql_url: str) -> None:
    store = SqlHistory(f"{mysql_url}_absent")
    with pytest.raises(HistoryError, match="_absent.*Create the database, or correct history.url"):
        store.query("newest_definition", {})
    store.close()


def test_a_file_that_is_no_database_is_not_taken_for_a_missing_table(tmp_path: Path) -> None:
    (tmp_path / "history.db").write_text("garbage " * 1_000)
    store = SqlHistory(f"sqlite:///{tmp_path}/history.db")
    with pytest.raises(HistoryError, match=r"history\.db.*Restore it from a copy, or name another in history\.url") as caught:
        store.query("newest_definition", {})
    store.close()
    assert "featureflow apply" not in str(caught.value)
