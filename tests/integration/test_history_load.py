"""Loads of rows without a file: what a server asks for, refuses, cuts and leaves out."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import sqlalchemy
from histories import history_of
from pymysql.connections import Connection
from structlog.testing import capture_logs
from trips import DEPARTURE, FIELDS, events

from featureflow.errors import HistoryError, UnavailableError
from featureflow.store.history.engine import engine_of
from featureflow.store.history.load import LoadingConnection
from featureflow.store.history.sql import LOAD_ROWS, SqlHistory

GIVEN = events(11, 0, 2 * LOAD_ROWS)
END = int(GIVEN.offsets[-1]) + 1


@pytest.fixture
def mysql(mysql_url: str) -> Iterator[SqlHistory]:
    with history_of(mysql_url) as store:
        yield store


@pytest.fixture
def sent(mysql: SqlHistory) -> list[str]:
    """The first word of each statement that adds rows of events."""
    words: list[str] = []

    def before(connection: object, cursor: object, statement: str, *_: object) -> None:
        if "ev_departure" in statement and "SELECT" not in statement:
            words.append(statement.split()[0])

    sqlalchemy.event.listen(mysql._database.engine, "before_cursor_execute", before)
    return words


def offsets_of(history: SqlHistory) -> list[int]:
    return [int(offset) for page in history.scan(DEPARTURE, partition=0, columns=[]) for offset in page.events.offsets]


def test_many_rows_are_loaded_and_few_are_inserted(mysql: SqlHistory, sent: list[str]) -> None:
    mysql.append(DEPARTURE, 0, GIVEN, 0, END)
    mysql.append(DEPARTURE, 1, replace(events(12, 1, LOAD_ROWS - 1)), 0, END)
    assert sent == ["LOAD", "INSERT"]
    assert offsets_of(mysql) == GIVEN.offsets.tolist()


def test_a_server_that_takes_no_load_is_given_inserts_and_asked_once(mysql: SqlHistory, mysql_url: str, sent: list[str]) -> None:
    half, middle = LOAD_ROWS, int(GIVEN.offsets[LOAD_ROWS])
    assert "local_infile" not in mysql.ping()
    with capture_logs() as lines, loads_off(mysql_url):
        mysql.append(DEPARTURE, 0, GIVEN.take(np.arange(half)), 0, middle)
        said = mysql.ping()
    mysql.append(DEPARTURE, 0, GIVEN.take(np.arange(half, len(GIVEN))), middle, END)
    assert sent == ["LOAD", "INSERT", "INSERT"]
    assert (mysql.offsets("departure"), offsets_of(mysql)) == ({0: END}, GIVEN.offsets.tolist())
    assert "local_infile is OFF" in said
    (line,) = [line for line in lines if line["event"] == "history_inserts"]
    assert "disabled" in line["reason"]
    assert "local_infile" in line["to_load"]


@contextlib.contextmanager
def loads_off(url: str) -> Iterator[None]:
    """For the whole server: whoever loads rows at this moment inserts them."""
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("SET GLOBAL local_infile = OFF")
        try:
            yield
        finally:
            connection.exec_driver_sql("SET GLOBAL local_infile = ON")
    engine.dispose()


def test_a_load_that_leaves_a_row_out_is_undone_and_said(mysql: SqlHistory, sent: list[str]) -> None:
    """LOCAL makes a warning of a key that is there already."""
    first = GIVEN.take(np.arange(1))
    mysql.append(DEPARTURE, 0, first, 0, 1)
    with pytest.raises(HistoryError, match="holds such a row already"):
        mysql.append(DEPARTURE, 0, GIVEN, 1, END)
    assert sent == ["INSERT", "LOAD", "INSERT"]
    assert (mysql.offsets("departure"), offsets_of(mysql)) == ({0: 1}, first.offsets.tolist())


@pytest.mark.parametrize("guarded", [True, False])
def test_a_load_that_cuts_a_value_is_undone_and_said(mysql: SqlHistory, monkeypatch: pytest.MonkeyPatch, guarded: bool) -> None:
    """And, without the look at the number of warnings, is taken for done: the guard's own test."""
    long = tuple(msgspec.structs.replace(field, max_bytes=200_000) if field.name == "note" else field for field in FIELDS)
    longer = msgspec.structs.replace(DEPARTURE, fields=long)           # applied by nobody, so the column is as it was
    given = events(13, 0, LOAD_ROWS)
    given.columns["note"][7] = "x" * 100_000
    if guarded:
        with pytest.raises(HistoryError, match="Data too long for column 'note'"):
            mysql.append(longer, 0, given, 0, END)
        assert (mysql.offsets("departure"), offsets_of(mysql)) == ({}, [])
    else:
        monkeypatch.setattr(LoadingConnection, "warned", property(lambda self: 0, lambda self, value: None))
        mysql.append(longer, 0, given, 0, END)
        (page,) = mysql.scan(DEPARTURE, partition=0, columns=["note"])
        assert len(page.events.columns["note"][7]) == 65_535


# -- a server that lies ------------------------------------------------------------------------------------------------

OK = b"\0\0\0\x02\0\0\0"


class Thief:
    """Speaks as much of MySQL as it takes to be connected to, and answers the first statement but SET with a demand for a file."""

    def __init__(self, wanted: Path) -> None:
        self._wanted = wanted
        self.got: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def join(self) -> None:
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        with client, client.makefile("rb") as reading:

            def send(number: int, body: bytes) -> None:
                client.sendall(struct.pack("<I", len(body))[:3] + bytes([number]) + body)

            def receive() -> bytes:
                head = reading.read(4)
                return reading.read(int.from_bytes(head[:3], "little"))

            capabilities = 0x0008_A285             # protocol 4.1, LOCAL INFILE, secure passwords, a database, plugins
            send(0, b"\x0a8.0.0\0" + struct.pack("<I", 1) + b"a" * 8 + b"\0" + struct.pack("<H", capabilities & 0xFFFF) + b"\x2d\x02\0"
                 + struct.pack("<H", capabilities >> 16) + b"\x15" + b"\0" * 10 + b"b" * 12 + b"\0mysql_native_password\0")  # fmt: skip
            receive()
            send(2, OK)
            while receive()[1:4].upper() == b"SET":
                send(1, OK)
            send(1, b"\xfb" + str(self._wanted).encode())
            while body := receive():
                self.got.append(body)
            send(2 + len(self.got) + 1, OK)


def test_a_server_that_asks_for_a_file_gets_nothing(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"the password")
    thief = Thief(secret)
    store = SqlHistory(f"mysql://user:word@127.0.0.1:{thief.port}/database")
    with pytest.raises(UnavailableError, match="the server asked for a file"):
        store.offsets("departure")
    thief.join()
    assert thief.got == []


def test_the_drivers_own_connection_would_give_it_away(tmp_path: Path) -> None:
    """So the test above can fail."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"the password")
    thief = Thief(secret)
    connection = Connection(host="127.0.0.1", port=thief.port, user="user", password="word", local_infile=True)
    connection.query("SELECT 1")
    connection.close()
    thief.join()
    assert thief.got == [b"the password"]


def test_every_connection_of_an_engine_is_one_that_sends_no_file(mysql: SqlHistory, mysql_url: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("1\n")
    engine = engine_of(f"{mysql_url}?local_infile=1", setting="history.url")
    with engine.connect() as connection:
        assert type(connection.connection.dbapi_connection) is LoadingConnection
        with pytest.raises(sqlalchemy.exc.OperationalError, match="the server asked for a file"):
            connection.exec_driver_sql(f"LOAD DATA LOCAL INFILE '{file}' INTO TABLE ev_departure (_offset)")
    engine.dispose()
    assert offsets_of(mysql) == []
