"""Alembic's entry: runs on the connection it is given, or, for writing a revision by hand, on ``alembic -x url=URL``."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, create_engine

from featureflow.store.history.fixed_tables import FIXED


def run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=FIXED, version_table="featureflow_revision")
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if isinstance(given, Connection):
    run(given)
else:
    url = context.get_x_argument(as_dictionary=True).get("url")
    if not url:
        raise SystemExit("say which database: alembic -x url=mysql+pymysql://user:password@host/database ...")
    with create_engine(url).connect() as connection:
        run(connection)
        connection.commit()
