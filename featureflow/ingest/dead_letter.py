"""Records that are not folded, kept with their reason and position on a topic of their own.

They are appended before the commit that passes them by, so none is lost; a commit that is sent again may append one twice,
under the same ``position``.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from featureflow import limits
from featureflow.clock import Clock
from featureflow.define.system import dead_letters
from featureflow.ingest.failpoint import Failpoint, unarmed
from featureflow.kernel.decode import Encoder
from featureflow.store.log.protocol import Batch, Log, Record

DETAIL_BYTES = 4_096


@dataclass(frozen=True)
class DeadLetter:
    """One refused record. ``view`` is the id of the one view that refused it (late, too_wide, wrong_partition), None where
    every view does.

    ``reason`` is a ``kernel.decode.Reason``, ``future``, ``late``, ``too_wide`` or ``wrong_partition``.
    """

    source: str
    partition: int
    offset: int
    reason: str
    detail: str
    value: bytes | None
    view: str | None = None

    @property
    def position(self) -> str:
        """``source/partition/offset[/view]``: what the letter is known by, however often it is written."""
        place = f"{self.source}/{self.partition}/{self.offset}"
        return place if self.view is None else f"{place}/{self.view}"

    def values(self, noticed_at_us: int) -> dict[str, object]:
        """The letter as an event of ``define.system.dead_letters``; of its value only the first bytes are kept."""
        return {
            "noticed_at": noticed_at_us,
            "position": self.position,
            "source": self.source,
            "partition": self.partition,
            "offset": self.offset,
            "view": self.view,
            "reason": self.reason,
            "detail": self.detail.encode(errors="replace")[:DETAIL_BYTES].decode(errors="ignore"),
            "value": b64encode((self.value or b"")[: limits.DEAD_LETTER_VALUE_BYTES]).decode(),
        }


def letters(batch: Batch, places: Iterable[int], reason: str, detail: str, view: str | None = None) -> list[DeadLetter]:
    """One letter for each of these places of the batch, refused by a verdict for one reason."""
    return [
        DeadLetter(batch.source, batch.partition, int(batch.offsets[i]), reason, detail, batch.values[i], view) for i in places
    ]


def append(log: Log, project: str, dead: Sequence[DeadLetter], clock: Clock, failpoint: Failpoint = unarmed) -> None:
    """Append the letters durably, to the topic of the project of that name; a bounded number at once.

    Raises what ``Log.append`` raises: then nothing may be committed past them.
    """
    if not dead:
        return
    now_us = clock.now_us()
    encode, topic = _encoder(project).encode, dead_letters(project).topic
    failpoint("before_dead_letters")
    for some in batched(dead, limits.DEAD_LETTERS):
        log.append(topic, [Record(value=encode(letter.values(now_us)), key=letter.position.encode()) for letter in some])
    failpoint("after_dead_letters")


@cache
def _encoder(project: str) -> Encoder:
    """Made once: it is a class of its own, which takes a millisecond, and every batch may have letters."""
    return Encoder(dead_letters(project))


def batched(letters: Sequence[DeadLetter], size: int) -> Iterator[Sequence[DeadLetter]]:
    """So many at a time."""
    for start in range(0, len(letters), size):
        yield letters[start : start + size]
