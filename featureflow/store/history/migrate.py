"""The fixed tables, brought to the newest alembic revision, and the lock of whoever changes tables."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from featureflow.errors import HistoryError

LOCK_S = 60


def migrations_folder() -> Path:
    """Where the revisions are: inside the package when it was installed from a wheel, beside it in a checkout."""
    package = Path(__file__).parents[2]
    for folder in (package / "_migrations", package.parent / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise HistoryError(f"the database migrations are missing beside {package}; install featureflow again")


@contextmanager
def alone(connection: Connection) -> Iterator[None]:
    """While it lasts no other process looks which tables there are and changes them. What was done is committed at its end."""
    if connection.dialect.name == "sqlite":         # the transaction holds the write lock already; MySQL commits at each DDL statement
        yield
        return
    database = (connection.engine.url.database or "").encode()
    name = f"featureflow.{hashlib.sha256(database).hexdigest()[:40]}"       # the server has one list of names, of 64 bytes at most
    if not connection.execute(text("SELECT GET_LOCK(:name, :wait)"), {"name": name, "wait": LOCK_S}).scalar():
        raise HistoryError(f"another process has been migrating this database for {LOCK_S} s; see SHOW PROCESSLIST")
    try:
        yield
    finally:
        connection.execute(text("COMMIT"))          # or the next process would not see the revision and make the tables again
        connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": name})


def upgrade(connection: Connection) -> None:
    """Run what is missing, on a connection whose transaction the caller commits. One process at a time."""
    with alone(connection):
        config = Config()
        config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
