"""What the ``services`` fixture hands out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Services:
    """Where the real servers listen, as the settings write it."""

    kafka: str                             # host:port
    redis: str                             # redis://host:port, without a database
    mysql: str                             # mysql+pymysql://user:password@host:port, without a database
    versions: dict[str, str]
    pids: dict[str, int | None]            # None in a container
