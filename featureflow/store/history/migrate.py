"""The fixed tables, brought to the newest alembic revision."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from featureflow.errors import HistoryError

LOCK_NAME, LOCK_S = "featureflow.migrate", 60


def migrations_folder() -> Path:
    """Where the revisions are: inside the package when it was installed from a wheel, beside it in a checkout."""
    package = Path(__file__).parents[2]
    for folder in (package / "_migrations", package.parent / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise HistoryError(f"the database migrations are missing beside {package}; install featureflow again")


def upgrade(connection: Connection) -> None:
    """Run what is missing, on a connection whose transaction the caller commits. One process at a time."""
    mysql = connection.dialect.name != "sqlite"     # SQLite holds its write lock already; MySQL commits at each DDL statement
    if mysql and not connection.execute(text("SELECT GET_LOCK(:name, :wait)"), {"name": LOCK_NAME, "wait": LOCK_S}).scalar():
        raise HistoryError(f"another process has been migrating this database for {LOCK_S} s; see SHOW PROCESSLIST")
    try:
        config = Config()
        config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    finally:
        if mysql:
            connection.execute(text("COMMIT"))      # or the next process would not see the revision and make the tables again
            connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": LOCK_NAME})
