"""What every producer is made with, whatever ``log.url`` says: a record once, on all in-sync replicas, and no topic made by naming it."""

from __future__ import annotations

from typing import Any

ALWAYS: dict[str, Any] = {
    "acks": "all",
    "enable_idempotence": True,
    "compression_type": "lz4",
    "batch_size": 256 * 1024,
    "allow_auto_create_topics": False,
}
