from __future__ import annotations

import numpy as np

from featureflow.define.spec import Field, Source
from featureflow.ingest.decode import Decoder
from featureflow.store.log.protocol import Batch

SOURCE = Source(
    name="pay", topic="pay", time_field="at", disorder_us=0, future_us=0, keyed_by="user",
    fields=(Field(name="user", type="str", entity="user"), Field(name="at", type="datetime"), Field(name="amount", type="float")),
)
GOOD = b'{"user": "u", "at": 1, "amount": 1}'


def batch(*values: bytes | None, keys: list[bytes | None] | None = None) -> Batch:
    offsets = np.array([10 + 2 * i for i in range(len(values))], np.int64)
    return Batch("pay", 3, 10, 10 + 2 * len(values), offsets, offsets * 1_000, list(values), keys or [b"u"] * len(values), "create")


def test_every_record_becomes_an_event_or_a_dead_letter_with_its_position() -> None:
    decoded = Decoder(SOURCE).decode(batch(GOOD, b"{", GOOD, None, GOOD, keys=[b"u", b"u", b"v", b"u", b"u"]))
    assert [(letter.position, letter.reason, letter.value) for letter in decoded.dead] == [
        ("pay/3/12", "undecodable", b"{"), ("pay/3/14", "bad_key", GOOD), ("pay/3/16", "tombstone", None),
    ]
    assert decoded.places.tolist() == [0, 4]
    assert decoded.events.offsets.tolist() == [10, 18]
    assert decoded.events.timestamps_us.tolist() == [10_000, 18_000]
    assert (decoded.events.partition, decoded.events.append_time) == (3, False)


def test_only_the_columns_that_somebody_reads_are_made() -> None:
    assert set(Decoder(SOURCE, ["amount"]).decode(batch(GOOD)).events.columns) == {"amount"}
