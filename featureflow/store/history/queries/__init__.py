"""Named SQL, one statement a file; the same text runs on MySQL and on SQLite."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from sqlalchemy import TextClause, text


@cache
def named(name: str) -> TextClause:
    """The statement of ``NAME.sql``."""
    return text((files(__name__) / f"{name}.sql").read_text(encoding="utf-8"))
