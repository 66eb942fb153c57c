"""What it costs to refuse a request before its body is read: the server's own part, without the kernel's.

The protocol is handed a request's bytes again and again, as the event loop does it, on a connection that it believes to be one, while
its event loop is said to be far behind.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import uvloop

from featureflow.clock import SystemClock
from featureflow.models.store import ModelStore
from featureflow.serve.connection import Connections
from featureflow.serve.openapi import Document
from featureflow.serve.produce import Producer
from featureflow.serve.routes import Routes
from featureflow.serve.scorer import Scorer
from featureflow.serve.upkeep import Upkeep
from featureflow.store.log.protocol import Log
from featureflow.store.online.open import open_reader

BATCH, BATCHES = 1_000, 40
BEHIND_S = 1e9  # that the event loop is said to be behind


class Nowhere(asyncio.Transport):
    """A transport that counts what is written to it."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.bytes = 0
        self.refused = 0

    def write(self, data: Any) -> None:
        self.bytes += len(data)
        self.refused += data.startswith(b"HTTP/1.1 503 ")

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False


def protocol_us(online_url: str, project: str, log: Log, models: ModelStore, request: bytes) -> float:
    """Microseconds of processor time for one refusal: the least of many batches."""

    async def measure() -> float:
        reader = open_reader(online_url)
        await reader.start()
        scorer = Scorer(reader, models, project=project, clock=SystemClock())
        producer = Producer(log)
        try:
            await scorer.refresh()
            upkeep = Upkeep(scorer, log)
            connections = Connections(Routes(scorer, producer, upkeep, Document("0", scorer.clock)))
            transport, connection = Nowhere(), connections.connect()
            connection.connection_made(transport)
            least = float("inf")
            for _ in range(BATCHES):
                scorer.lanes.quick.admission.lags(BEHIND_S)
                scorer.lanes.quick.admission.refused_s = time.monotonic()
                began = time.process_time_ns()
                for _ in range(BATCH):
                    connection.data_received(request)
                connections.send()
                least = min(least, (time.process_time_ns() - began) / BATCH / 1e3)
                await asyncio.sleep(0.001)
            if transport.refused < BATCH * BATCHES:
                raise SystemExit(f"{transport.refused} of {BATCH * BATCHES} were refused")
            connection.connection_lost(None)
            await connections.close(1.0)
            return least
        finally:
            scorer.close()
            await reader.close()

    return round(uvloop.run(measure()), 2)
