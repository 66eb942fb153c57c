"""A history database that is ready for a test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager

from trips import DEPARTURE

from featureflow.define.spec import Source
from featureflow.store.history.sql import SqlHistory


@contextmanager
def history_of(url: str, sources: Iterable[Source] = (DEPARTURE,)) -> Iterator[SqlHistory]:
    """With the tables of these sources; closed at the end."""
    with closing(SqlHistory(url)) as store:
        store.migrate()
        for source in sources:
            store.ensure_source(source)
        yield store
