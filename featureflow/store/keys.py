"""The names of everything in the online store. Injective: ids are percent-escaped, so no id can imitate another key.

    feat:{bucket}:<entity>:<id>:<view@version>:<source>[:<partition>]     one entity's rows
    offset:{bucket}:<view@version>:<source>:<partition>                  how far they were folded
    seen:{bucket}:<view@version>:<source>:<partition>                    when each offset became visible
    meta:{bucket}:<name>                                                 mirrored registry documents

A standalone Redis has the one bucket ``0``.
"""

from __future__ import annotations

from urllib.parse import quote

BUCKET = "{0}"


def escape_id(entity_id: str | int) -> str:
    """Percent-escape everything but letters, digits and ``_.-~``: no ``:``, brace, space or control byte is left."""
    return quote(str(entity_id), safe="")


def state_key(entity: str, entity_id: str | int, view_id: str, source: str, partition: int | None) -> bytes:
    """``partition`` is None where the source is keyed by the entity."""
    tail = "" if partition is None else f":{partition}"
    return f"feat:{BUCKET}:{entity}:{escape_id(entity_id)}:{view_id}:{source}{tail}".encode()


def offset_key(view_id: str, source: str, partition: int) -> bytes:
    return f"offset:{BUCKET}:{view_id}:{source}:{partition}".encode()


def meta_key(name: str) -> bytes:
    return f"meta:{BUCKET}:{name}".encode()


def visibility_key(view_id: str, source: str, partition: int) -> bytes:
    """A stream: at each commit the store's own time and the offset that became visible."""
    return f"seen:{BUCKET}:{view_id}:{source}:{partition}".encode()
