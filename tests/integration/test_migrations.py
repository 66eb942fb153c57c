"""The revisions of ``migrations/`` make the tables that the code writes to, and can be taken back."""

from __future__ import annotations

import sqlalchemy
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from featureflow.store.history.fixed_tables import FIXED
from featureflow.store.history.migrate import migrations_folder
from featureflow.store.history.sql import SqlHistory

TABLES = set(FIXED.tables)


def test_the_newest_revision_is_what_the_code_expects(history_url: str) -> None:
    store = SqlHistory(history_url)
    store.migrate()
    store.close()
    engine = sqlalchemy.create_engine(history_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "featureflow_revision", "compare_type": True})
        assert compare_metadata(context, FIXED) == []
    engine.dispose()


def test_revisions_can_be_taken_back_and_made_again(history_url: str) -> None:
    store = SqlHistory(history_url)
    store.migrate()
    engine = sqlalchemy.create_engine(history_url)
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(migrations_folder()))
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    assert not TABLES & set(sqlalchemy.inspect(engine).get_table_names())
    store.migrate()
    assert set(sqlalchemy.inspect(engine).get_table_names()) >= TABLES
    engine.dispose()
    store.close()
