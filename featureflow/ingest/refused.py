"""Records that are no events, as history keeps them: a later definition may see them otherwise."""

from __future__ import annotations

from featureflow import limits
from featureflow.store.history.protocol import RefusedRecord
from featureflow.store.log.protocol import Batch


def kept_as_it_came(batch: Batch, index: int) -> RefusedRecord | None:
    """A record of the batch that is no event; None for one that is none by any definition: without a value, or too large."""
    value = batch.values[index]
    if value is None or len(value) > limits.RECORD_BYTES:
        return None
    at, appended = int(batch.offsets[index]), batch.timestamp_kind == "append"
    return RefusedRecord(at, int(batch.timestamps_us[index]), appended, batch.keys[index], value)
