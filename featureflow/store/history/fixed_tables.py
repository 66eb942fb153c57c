"""The tables whose columns do not depend on the definitions. Their changes are alembic revisions in ``migrations/``."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, MetaData, SmallInteger, String, Table, Text
from sqlalchemy.dialects.mysql import MEDIUMBLOB, MEDIUMTEXT

FIXED = MetaData()

NAME = String(190)
RECORD = LargeBinary().with_variant(MEDIUMBLOB(), "mysql", "mariadb")
DOCUMENT = Text().with_variant(MEDIUMTEXT(), "mysql", "mariadb")

history_offsets = Table(
    "history_offsets",
    FIXED,
    Column("source", NAME, primary_key=True),
    Column("partition_id", Integer, primary_key=True, autoincrement=False),
    Column("first_offset", BigInteger, nullable=False),       # history is complete from here
    Column("next_offset", BigInteger, nullable=False),        # moved by compare-and-set, with the rows, in one transaction
)

history_refused = Table(                   # records that were no events; see HistoryStore.settle
    "history_refused",
    FIXED,
    Column("source", NAME, primary_key=True),
    Column("partition_id", Integer, primary_key=True, autoincrement=False),
    Column("record_offset", BigInteger, primary_key=True, autoincrement=False),
    Column("timestamp_us", BigInteger, nullable=False),
    Column("append_time", SmallInteger, nullable=False),
    Column("record_key", RECORD, nullable=True),
    Column("record_value", RECORD, nullable=False),
    Column("definition", String(16), nullable=False),         # of the source, by which it was refused
    Column("fields", Text, nullable=True),                    # ",a,b,": it has a row, and is none by definitions with these fields
)

history_unfilled = Table(                  # see HistoryStore.fill
    "history_unfilled",
    FIXED,
    Column("source", NAME, primary_key=True),
    Column("partition_id", Integer, primary_key=True, autoincrement=False),
    Column("fields", DOCUMENT, nullable=False),               # JSON, their names: declared after rows had been written
    Column("next_offset", BigInteger, nullable=False),        # before it the rows have them
)

topics = Table(
    "topics",
    FIXED,
    Column("source", NAME, primary_key=True),
    Column("topic", NAME, nullable=False),
    Column("topic_id", NAME, nullable=False),                 # changes when a topic is recreated
    Column("partitions", Integer, nullable=False),
)

definitions = Table(
    "definitions",
    FIXED,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("applied_at_us", BigInteger, nullable=False),
    Column("project", DOCUMENT, nullable=False),              # JSON of define.spec.Project
)

owner = Table(                             # one row: the project that was applied here first
    "owner",
    FIXED,
    Column("id", Integer, primary_key=True, autoincrement=False),     # 1, so that there is no second row
    Column("project", NAME, nullable=False),
    Column("registry_id", String(32), nullable=False),        # random; the online store mirrors it, so that two do not mix
    Column("buckets", Integer, nullable=True),                # that states are in; null: not settled yet
)

view_versions = Table(
    "view_versions",
    FIXED,
    Column("view_id", NAME, primary_key=True),                # name@version
    Column("state", String(16), nullable=False),              # live | retired | dropping | dropped
    Column("changed_at_us", BigInteger, nullable=False),
    Column("definition", DOCUMENT, nullable=False),           # JSON of define.spec.View
)

positions = Table(
    "positions",
    FIXED,
    Column("view_id", NAME, primary_key=True),
    Column("source", NAME, primary_key=True),
    Column("partition_id", Integer, primary_key=True, autoincrement=False),
    Column("topic_id", NAME, nullable=False),
    Column("beginning", BigInteger, nullable=False),          # the first offset that this view version folds
    Column("state", String(16), nullable=False),              # planned | created: whether its offset record has been made
)

releases = Table(                          # rows are added and never changed: the one with the highest number is in force
    "releases",
    FIXED,
    Column("model", NAME, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("made_at_us", BigInteger, nullable=False),
    Column("document", DOCUMENT, nullable=False),             # JSON of models.release.Release
)
