"""The names of everything in the online store. Injective: ids are percent-escaped, so no id can imitate another key.

    feat:{project:bucket}:<entity>:<id>:<view@version>:<source>[:<partition>][~<part>]  one entity's rows
    offset:{project:bucket}:<view@version>:<source>:<partition>                  how far those of the bucket were folded
    seen:{project:bucket}:<view@version>:<source>:<partition>                    when each offset became visible
    ids:{project:bucket}:<view@version>:<source>:<partition>:<tile>:<number>     ids that tell duplicates, by tile of the horizon
    plain:{project:bucket}:<entity>:<id>:<view>                                  the values that a view publishes
    meta:{project:meta}:<name>                                                   mirrored registry documents
    shared:{project:meta}:<name>                                                 what processes tell each other, for a short time

Project and bucket stand in the hash tag: projects share no key, and keys of one bucket share a slot of a Redis Cluster, as
one script and one MGET need it. An entity's id decides its bucket. A store has the one bucket ``0`` or several, of which the tag
names the number too (``3/16``): what was folded into so many buckets is never taken for what was folded into another number.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote
from zlib import crc32

META = "meta"
_UNESCAPED = re.compile(r"[A-Za-z0-9_.~-]*").fullmatch


class Bucket(NamedTuple):
    """One of so many."""

    number: int = 0
    of: int = 1

    def __str__(self) -> str:
        return str(self.number) if self.of == 1 else f"{self.number}/{self.of}"


ONE = Bucket()


def buckets(of: int) -> tuple[Bucket, ...]:
    """All of so many."""
    return tuple(Bucket(number, of) for number in range(of))


def tag_of(key: bytes) -> bytes:
    """What stands in its braces: keys of one tag share a bucket."""
    return key[key.index(b"{") : key.index(b"}") + 1]


def view_of(key: bytes) -> str:
    """The view that a key is of: with its version, except for what it publishes."""
    kind, _, parts = key.decode().partition(":")
    return parts[parts.index("}") + 2 :].split(":")[2 if kind in ("feat", "plain") else 0]


def escape_id(entity_id: str | int) -> str:
    """Percent-escape everything but letters, digits and ``_.-~``: no ``:``, brace, space or control byte is left."""
    text = str(entity_id)
    return text if _UNESCAPED(text) else quote(text, safe="")


class Keys:
    """The keys of one project, whose states are in so many buckets.

    Its name is made of lower-case letters, digits, ``-`` and ``_`` (see ``settings``).
    """

    __slots__ = ("_project", "_tags", "buckets")

    def __init__(self, project: str, of: int = 1) -> None:
        self._project = project
        self.buckets = buckets(of)
        self._tags = tuple(self._tag(bucket) for bucket in self.buckets)

    def number(self, entity_id: str | int) -> int:
        """Of the entity's bucket: the same in every process and on every machine."""
        return _number(escape_id(entity_id), len(self.buckets)) if len(self.buckets) > 1 else 0

    def state(
        self, entity: str, entity_id: str | int, view_id: str, source: str, partition: int | None, part: str = ""
    ) -> bytes:
        """``partition`` is None where the source is keyed by the entity. ``part`` tells the cells of sketches from the other rows."""
        tail = ("" if partition is None else f":{partition}") + (part and f"~{part}")
        escaped = escape_id(entity_id)
        return f"feat:{self._tag_of(escaped)}:{entity}:{escaped}:{view_id}:{source}{tail}".encode()

    def published(self, entity: str, entity_id: str | int, view: str) -> bytes:
        """What a view (its name, without its version) publishes of an entity, in the bucket of its states."""
        escaped = escape_id(entity_id)
        return f"plain:{self._tag_of(escaped)}:{entity}:{escaped}:{view}".encode()

    def offset(self, view_id: str, source: str, partition: int, bucket: Bucket = ONE) -> bytes:
        """How far a view version has folded the entities of one bucket: see ``store.online.record``."""
        return f"offset:{self._tag(bucket)}:{view_id}:{source}:{partition}".encode()

    def visibility(self, view_id: str, source: str, partition: int, bucket: Bucket = ONE) -> bytes:
        """A stream: at each commit the store's own time and the offset that became visible."""
        return f"seen:{self._tag(bucket)}:{view_id}:{source}:{partition}".encode()

    def ids(self, view_id: str, source: str, partition: int, tile: int, number: int, bucket: Bucket = ONE) -> bytes:
        """The ids by which duplicates are told, of one tile of event time; ``number`` tells the parts that one tile is cut into."""
        return f"ids:{self._tag(bucket)}:{view_id}:{source}:{partition}:{tile}:{number}".encode()

    def meta(self, name: str) -> bytes:
        """A document of what is applied: see ``store.mirror``."""
        return f"meta:{self._tag(META)}:{name}".encode()

    def shared(self, name: str) -> bytes:
        """A hash: what each process has to say of something, see ``OnlineStore.share``."""
        return f"shared:{self._tag(META)}:{name}".encode()

    def patterns(self, view_id: str) -> tuple[str, str, str, str]:
        """What matches all offset records, visibility streams, states and ids of a view version, in however many buckets."""
        tags = self._tag("*")
        return f"offset:{tags}:{view_id}:*", f"seen:{tags}:{view_id}:*", f"feat:{tags}:*:{view_id}:*", f"ids:{tags}:{view_id}:*"

    def published_pattern(self, view: str = "") -> str:
        """What matches all that is published: by this view, or by any."""
        return f"plain:{self._tag('*')}:*" + (view and f":{view}")

    def _tag_of(self, escaped: str) -> str:
        of = len(self._tags)
        return self._tags[_number(escaped, of) if of > 1 else 0]

    def _tag(self, bucket: object) -> str:
        return f"{{{self._project}:{bucket}}}"


def _number(escaped: str, of: int) -> int:
    return crc32(escaped.encode()) % of
