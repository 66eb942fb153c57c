"""An offset record as bytes: fixed-width ASCII, so that Lua reads and writes it with ``string.sub`` and ``SETRANGE``.

    bytes      field
    0   ..4    magic ``FFo2``
    4   ..36   token, hexadecimal
    36  ..56   offset        \\
    56  ..76   dirty          \\ sign and 19 digits each: equal numbers are equal strings,
    76  ..96   max_time_us    / so that Lua never turns an int64 into a float
    96  ..116  committed_ms  /
    116 ..136  complete_ms  /
    136 ..     topic id

The positions stand again, one-based, at the top of ``lua/*.lua``.
"""

from __future__ import annotations

from featureflow.clock import NO_TIME_US
from featureflow.errors import StateError
from featureflow.store.online.protocol import DROPPED, OffsetRecord

MAGIC = b"FFo2"
NO_TOKEN = bytes(16)
FIXED_BYTES = 136


def digits(number: int) -> bytes:
    """An int64 as 20 bytes: its sign and 19 digits."""
    return b"%+020d" % number


def encode(record: OffsetRecord) -> bytes:
    """``FIXED_BYTES`` and the topic's id; the inverse of ``decode``."""
    return b"".join((
        MAGIC,
        record.token.hex().encode(),
        digits(record.offset),
        digits(record.dirty),
        digits(record.max_time_us),
        digits(record.committed_ms),
        digits(record.complete_ms),
        record.topic_id.encode(),
    ))


def dropped() -> bytes:
    """What stands in place of the record of a view that is being dropped, whatever it was."""
    return encode(OffsetRecord(NO_TOKEN, 0, DROPPED, NO_TIME_US, 0, ""))


def decode(value: bytes) -> OffsetRecord:
    """Raises StateError where the bytes are not an offset record."""
    try:
        if not value.startswith(MAGIC) or len(value) < FIXED_BYTES:
            raise ValueError
        return OffsetRecord(
            token=bytes.fromhex(value[4:36].decode()),
            offset=int(value[36:56]),
            dirty=int(value[56:76]),
            max_time_us=int(value[76:96]),
            committed_ms=int(value[96:116]),
            complete_ms=int(value[116:136]),
            topic_id=value[136:].decode(),
        )
    except ValueError:
        raise StateError(
            f"{value[:40]!r} is not an offset record that this version of FeatureFlow knows: something else writes to "
            f"its keys, or its state is older. Point online.url at a database of its own, or run `featureflow rebuild VIEW`"
        ) from None
