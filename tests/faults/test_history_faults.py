"""What a transaction of history leaves behind when something breaks in the middle of it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import numpy as np
import pymysql
import pytest
import sqlalchemy
from histories import history_of
from proxy import Cutter
from trips import DEPARTURE, events

from featureflow.errors import UnavailableError, UnknownOutcomeError
from featureflow.store.history.sql import SqlHistory

GIVEN = events(11, 0, 200)
END = int(GIVEN.offsets[-1]) + 1


@pytest.fixture
def history(history_url: str) -> Iterator[SqlHistory]:
    yield from _prepared(history_url)


@pytest.fixture
def mysql(mysql_url: str) -> Iterator[SqlHistory]:
    yield from _prepared(mysql_url)


def _prepared(url: str) -> Iterator[SqlHistory]:
    with history_of(url) as store:
        store.create_offsets("departure", {0: 0})
        yield store


def offsets_of(history: SqlHistory) -> list[int]:
    return [int(offset) for page in history.scan(DEPARTURE, partition=0, columns=[]) for offset in page.events.offsets]


# -- the writer dies ---------------------------------------------------------------------------------------------------

def _append_and_die_before_commit(url: str) -> None:
    sqlalchemy.event.listen(sqlalchemy.Engine, "commit", lambda connection: os.kill(os.getpid(), signal.SIGKILL))
    SqlHistory(url).append(DEPARTURE, 0, GIVEN, 0, END)


def test_a_writer_killed_between_insert_and_commit_leaves_nothing(history: SqlHistory, history_url: str) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_append_and_die_before_commit, args=(history_url,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (history.offsets("departure"), offsets_of(history)) == ({0: 0}, [])
    history.append(DEPARTURE, 0, GIVEN, 0, END)
    assert (history.offsets("departure"), offsets_of(history)) == ({0: END}, GIVEN.offsets.tolist())


# -- the network breaks ------------------------------------------------------------------------------------------------

@pytest.fixture
def proxy(mysql_url: str) -> Iterator[Cutter]:
    parts = urlsplit(mysql_url)
    assert parts.hostname is not None
    assert parts.port is not None
    proxy = Cutter((parts.hostname, parts.port), b"\x03COMMIT")
    yield proxy
    proxy.close()


@pytest.fixture
def through(mysql: SqlHistory, mysql_url: str, proxy: Cutter) -> Iterator[SqlHistory]:
    """The same database, through the proxy."""
    parts = urlsplit(mysql_url)
    place = f"{parts.username}:{parts.password}@127.0.0.1:{proxy.port}"
    store = SqlHistory(parts._replace(netloc=place, query="ssl_disabled=true").geturl())     # the proxy reads along
    yield store
    store.close()


@pytest.mark.parametrize(("when", "stands_at"), [("before", 0), ("after", END)])
def test_a_commit_without_an_answer_is_an_unknown_outcome_and_the_offset_tells(
    mysql: SqlHistory, through: SqlHistory, proxy: Cutter, when: Literal["before", "after"], stands_at: int
) -> None:
    through.ping()                                 # connecting commits, too
    proxy.when = when
    with pytest.raises(UnknownOutcomeError, match="departure/0"):
        through.append(DEPARTURE, 0, GIVEN, 0, END)
    assert proxy.cuts == 1
    assert through.offsets("departure") == {0: stands_at}
    assert len(offsets_of(mysql)) == (len(GIVEN) if stands_at else 0)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("loads", [True, False])
def test_a_connection_that_breaks_among_the_rows_leaves_nothing(
    mysql: SqlHistory, mysql_url: str, when: Literal["before", "after"], loads: bool
) -> None:
    """Before the server hears of the statement, and when it asked for the rows, or had them."""
    parts = urlsplit(mysql_url)
    proxy = Cutter((parts.hostname or "", parts.port or 0), b"\x03LOAD DATA" if loads else b"\x03INSERT INTO ev_")
    place = f"{parts.username}:{parts.password}@127.0.0.1:{proxy.port}"
    through = SqlHistory(parts._replace(netloc=place, query="ssl_disabled=true").geturl())
    given = GIVEN if loads else GIVEN.take(np.arange(50))
    through.ping()
    proxy.when = when
    with pytest.raises(UnavailableError):
        through.append(DEPARTURE, 0, given, 0, END)
    assert proxy.cuts == 1
    assert (mysql.offsets("departure"), offsets_of(mysql)) == ({0: 0}, [])
    through.append(DEPARTURE, 0, given, 0, END)
    assert (mysql.offsets("departure"), offsets_of(mysql)) == ({0: END}, given.offsets.tolist())
    through.close()
    proxy.close()


def test_a_connection_that_broke_while_idle_is_replaced(mysql: SqlHistory, mysql_url: str) -> None:
    assert mysql.offsets("departure") == {0: 0}
    with _connection(mysql_url) as killer, killer.cursor() as cursor:
        cursor.execute("SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()")
        for (identity,) in cursor.fetchall():
            cursor.execute(f"KILL {identity}")
    mysql.append(DEPARTURE, 0, GIVEN, 0, END)
    assert offsets_of(mysql) == GIVEN.offsets.tolist()


def test_a_database_that_is_read_only_is_unavailable_and_not_a_lost_batch(sqlite_url: str) -> None:
    with history_of(sqlite_url) as store:
        sqlalchemy.event.listen(sqlalchemy.Engine, "begin", _read_only)
        try:
            with pytest.raises(UnavailableError, match=r"history\.url"):
                store.append(DEPARTURE, 0, GIVEN, 0, END)
        finally:
            sqlalchemy.event.remove(sqlalchemy.Engine, "begin", _read_only)


def _read_only(connection: sqlalchemy.Connection) -> None:
    connection.exec_driver_sql("PRAGMA query_only = ON")


# -- the database chooses a victim -------------------------------------------------------------------------------------

def _connection(url: str) -> pymysql.Connection:  # type: ignore[type-arg]  # not generic at run time
    parts = urlsplit(url)
    return pymysql.connect(
        host=parts.hostname, port=parts.port or 0, user=parts.username, password=parts.password or "", database=parts.path.strip("/")
    )


def test_the_victim_of_a_deadlock_writes_its_batch_again(mysql: SqlHistory, mysql_url: str) -> None:
    """
        other:    INSERT many rows, offset X among them
        append:   UPDATE the offset (locked), INSERT X ... waits for the other
        other:    UPDATE the offset ... deadlock: the append changed less, so it is rolled back
        other:    ROLLBACK
        append:   again, from its start
    """
    with _connection(mysql_url) as other, _connection(mysql_url) as watcher, other.cursor() as cursor, watcher.cursor() as watch:
        cursor.execute("SET SESSION transaction_isolation = 'READ-COMMITTED'")
        cursor.execute("SET autocommit = 0")
        rows = [(1, offset) for offset in range(5_000)] + [(0, int(GIVEN.offsets[100]))]
        cursor.executemany("INSERT INTO ev_departure (_partition, _offset, _timestamp_us, _append_time) VALUES (%s, %s, 0, 1)", rows)
        errors: list[BaseException] = []

        def append() -> None:
            try:
                mysql.append(DEPARTURE, 0, GIVEN, 0, END)
            except BaseException as error:
                errors.append(error)

        appending = threading.Thread(target=append)
        appending.start()
        watch.execute("SET autocommit = 1")
        waiting = 0
        while not waiting and appending.is_alive():
            watch.execute(
                "SELECT COUNT(*) FROM performance_schema.data_locks WHERE object_schema = DATABASE() AND lock_status = 'WAITING'"
            )
            ((waiting,),) = watch.fetchall()
        cursor.execute("UPDATE history_offsets SET next_offset = 77 WHERE source = 'departure' AND partition_id = 0")
        other.rollback()
        appending.join()
    assert errors == []
    assert (mysql.offsets("departure"), offsets_of(mysql)) == ({0: END}, GIVEN.offsets.tolist())


def test_a_new_sqlite_file_that_another_process_writes_at_this_moment_is_waited_for(tmp_path: Path) -> None:
    file, problems = tmp_path / "history.db", list[Exception]()

    def connect() -> None:
        try:
            store.ping()
        except Exception as problem:
            problems.append(problem)

    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")           # as before its first commit: the file is not yet one with a write-ahead log
        store = SqlHistory(f"sqlite:///{file}")
        connecting = threading.Thread(target=connect)
        connecting.start()
        connecting.join(0.3)               # long enough to be refused
        other.execute("ROLLBACK")
        connecting.join()
    store.close()
    assert problems == []


def test_a_second_writer_of_sqlite_waits_for_the_first(sqlite_url: str) -> None:
    asking, asked, done = threading.Event(), list[str](), list[dict[int, int]]()

    def heard(connection: object, cursor: object, statement: str, *rest: object) -> None:
        if statement == "BEGIN IMMEDIATE":
            asked.append(statement)
            asking.set()

    with history_of(sqlite_url) as store:
        engine = sqlalchemy.create_engine(sqlite_url, isolation_level="AUTOCOMMIT")
        with engine.connect() as blocker:
            blocker.exec_driver_sql("BEGIN IMMEDIATE")
            sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", heard)
            try:
                thread = threading.Thread(
                    target=lambda: done.append(store.append(DEPARTURE, 0, GIVEN, 0, END) or store.offsets("departure"))
                )
                thread.start()
                assert asking.wait(60)
                thread.join(0.3)           # long enough to be refused, and to ask again
                blocker.exec_driver_sql("ROLLBACK")
                thread.join()
            finally:
                sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", heard)
        engine.dispose()
    assert (done, len(asked)) == ([{0: END}], 1)
