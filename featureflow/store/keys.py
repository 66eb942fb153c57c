"""The names of everything in the online store. Injective: ids are percent-escaped, so no id can imitate another key.

    feat:{project:bucket}:<entity>:<id>:<view@version>:<source>[:<partition>][~<part>]  one entity's rows
    offset:{project:bucket}:<view@version>:<source>:<partition>                  how far they were folded
    seen:{project:bucket}:<view@version>:<source>:<partition>                    when each offset became visible
    meta:{project:bucket}:<name>                                                 mirrored registry documents

Project and bucket stand in the hash tag: projects share no key, and keys of one bucket share a slot of a Redis Cluster, as
one script and one MGET need it. A standalone Redis has the one bucket ``0``.
"""

from __future__ import annotations

import re
from urllib.parse import quote

_PLAIN = re.compile(r"[A-Za-z0-9_.~-]*").fullmatch


def escape_id(entity_id: str | int) -> str:
    """Percent-escape everything but letters, digits and ``_.-~``: no ``:``, brace, space or control byte is left."""
    text = str(entity_id)
    return text if _PLAIN(text) else quote(text, safe="")


class Keys:
    """The keys of one project. Its name is made of lower-case letters, digits, ``-`` and ``_`` (see ``settings``)."""

    __slots__ = ("bucket",)

    def __init__(self, project: str) -> None:
        self.bucket = f"{{{project}:0}}"

    def state(
        self, entity: str, entity_id: str | int, view_id: str, source: str, partition: int | None, part: str = ""
    ) -> bytes:
        """``partition`` is None where the source is keyed by the entity. ``part`` tells the cells of sketches from the other rows."""
        tail = ("" if partition is None else f":{partition}") + (part and f"~{part}")
        return f"feat:{self.bucket}:{entity}:{escape_id(entity_id)}:{view_id}:{source}{tail}".encode()

    def offset(self, view_id: str, source: str, partition: int) -> bytes:
        return f"offset:{self.bucket}:{view_id}:{source}:{partition}".encode()

    def meta(self, name: str) -> bytes:
        return f"meta:{self.bucket}:{name}".encode()

    def visibility(self, view_id: str, source: str, partition: int) -> bytes:
        """A stream: at each commit the store's own time and the offset that became visible."""
        return f"seen:{self.bucket}:{view_id}:{source}:{partition}".encode()
