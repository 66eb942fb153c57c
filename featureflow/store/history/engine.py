"""A SQLAlchemy engine for MySQL or SQLite, with every setting that correctness needs made explicit."""

from __future__ import annotations

import inspect
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.dialects.mysql.pymysql import MySQLDialect_pymysql
from sqlalchemy.exc import ArgumentError
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random

from featureflow.errors import SettingsError
from featureflow.store.history.load import LoadingConnection

LOCK_WAIT_S = 10
FILES = ("ssl_ca", "ssl_capath", "ssl_cert", "ssl_key")                    # options of MySQL that name one
IMMEDIATE = "featureflow_immediate"        # execution option: take SQLite's write lock at BEGIN


def engine_of(url: str, *, setting: str) -> Engine:
    """``mysql://`` (PyMySQL) or ``sqlite:///``. ``setting`` is the setting's name, for error messages."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:         # ValueError: of a port that is no number
        raise SettingsError(f"{setting} is not a database URL; write mysql://user:password@host:3306/database or sqlite:///path") from error
    match parsed.get_backend_name():
        case "mysql" | "mariadb":
            return _mysql(parsed, setting)
        case "sqlite":
            return _sqlite(parsed, setting)
        case other:
            raise SettingsError(f"{setting} names the database {other!r}; FeatureFlow keeps history in mysql or sqlite")


def _mysql(url: URL, setting: str) -> Engine:
    _check_mysql(url, setting)
    engine = create_engine(
        url.set(drivername=f"{url.get_backend_name()}+pymysql"),
        isolation_level="READ COMMITTED",      # REPEATABLE READ loses compare-and-set updates on MariaDB
        pool_pre_ping=True,
        pool_recycle=3600,
        hide_parameters=True,                  # rows of events have no place in an error message
        connect_args={
            "charset": "utf8mb4",
            "connect_timeout": 5,
            "read_timeout": 60,
            "write_timeout": 60,
            "local_infile": True,              # and LoadingConnection, which sends no file
            # strict: a value that does not fit is an error, never cut short
            "init_command": f"SET SESSION sql_mode='STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', innodb_lock_wait_timeout={LOCK_WAIT_S}",
        },
    )
    event.listen(engine, "do_connect", lambda dialect, record, arguments, named: LoadingConnection(*arguments, **named))
    return engine


def _check_mysql(url: URL, setting: str) -> None:
    """PyMySQL would say of all this only when it connects, and in Python's words."""
    if "@" in (url.host or ""):
        raise SettingsError(f"{setting} has an @ too many: in a user name or password write it as %40")
    if url.port is not None and not 0 < url.port < 65_536:
        raise SettingsError(f"{setting} has the port {url.port}; ports are 1 to 65535")
    for name in FILES:
        if (file := url.query.get(name)) is not None and not Path(str(file)).exists():
            raise SettingsError(f"{setting} has {name}={file}, which is no file here; name one that is there")
    try:
        _, named = MySQLDialect_pymysql().create_connect_args(url)
    except ValueError as error:
        raise SettingsError(f"{setting} has an option that cannot be: {error}; correct it, or leave it out") from None
    known = inspect.signature(LoadingConnection).parameters
    if unknown := sorted(named.keys() - known.keys()):
        raise SettingsError(f"{setting} has no option {unknown[0]!r}; there are ssl_ca, ssl_cert, ssl_key and the others of PyMySQL")


def _sqlite(url: URL, setting: str) -> Engine:
    if not url.database or url.database == ":memory:":
        raise SettingsError(f"{setting} must name a file: history in memory is lost with the process; write sqlite:///path/history.db")
    Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        url.set(drivername="sqlite+pysqlite"),
        connect_args={"timeout": LOCK_WAIT_S, "isolation_level": None},
        hide_parameters=True,
    )

    def on_connect(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        attempts = Retrying(
            retry=retry_if_exception(_is_busy), stop=stop_after_delay(LOCK_WAIT_S), wait=wait_random(0, 0.05), reraise=True
        )
        for attempt in attempts:           # while another process writes to a new file, SQLite refuses this at once, whatever its time-out
            with attempt:
                cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    def on_begin(connection: Connection) -> None:
        # sqlite3 itself begins a transaction late, and a transaction that starts by reading cannot always be upgraded to write
        immediate = connection.get_execution_options().get(IMMEDIATE, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
    return engine


def _is_busy(error: BaseException) -> bool:
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorname.startswith("SQLITE_BUSY")


def collation_of(connection: Connection) -> str | None:
    """The collation that compares strings by byte, trailing spaces included; None where that is the server's way anyhow."""
    if connection.dialect.name == "sqlite":
        return None
    return "utf8mb4_nopad_bin" if getattr(connection.dialect, "is_mariadb", False) else "utf8mb4_0900_bin"
