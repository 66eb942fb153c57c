"""The scorer as a process: it starts, listens, and drains when it is told to end."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import structlog
import uvloop

from featureflow import limits
from featureflow.breaker import Breaker, BreakerSettings
from featureflow.clock import Clock
from featureflow.define.system import predictions
from featureflow.log_lines import log_as_json
from featureflow.models.store import ModelStore
from featureflow.port import bind
from featureflow.serve.connection import Connections
from featureflow.serve.guarded_log import GuardedLog
from featureflow.serve.kept_metrics import BreakerMetrics
from featureflow.serve.metrics import Metrics
from featureflow.serve.openapi import Document
from featureflow.serve.prediction_log import PredictionLog
from featureflow.serve.produce import Producer
from featureflow.serve.routes import Routes
from featureflow.serve.scorer import Scorer
from featureflow.serve.upkeep import Upkeep
from featureflow.serve.vector_indexes import VectorIndexes
from featureflow.store.log.protocol import Log
from featureflow.store.online.open import open_online, open_reader
from featureflow.store.vectors.folder import VectorStore
from featureflow.tracing import Tracer, open_telemetry

DRAIN_S = 6.0  # for requests under way, and for shadows in what is left of it; then come the two logs, with FLUSH_S each
FLUSH_S = 1.5
SWITCH_S = 0.0005  # else the thread that logs predictions may hold the event loop up for 5 ms at a time
GARBAGE = 10_000  # objects more than were let go of, after which cycles are looked for: of the 700 that Python has, a turn makes more
OWN_FILES = 256  # of a process beside its callers' connections
log = structlog.get_logger("featureflow.serve")


@dataclass(frozen=True)
class ServeOptions:
    """``port`` 0 takes a free one. ``share_port``: several scorers listen on one port (SO_REUSEPORT)."""

    host: str = "127.0.0.1"
    port: int = 8080
    share_port: bool = False
    stale_after_us: int = 30_000_000
    tracking: bool = True  # the online store is asked to tell what changes
    log_predictions: bool = True
    feature_cache_bytes: int = limits.FEATURE_CACHE_BYTES
    breakers: BreakerSettings = field(default_factory=BreakerSettings)
    tracing: bool = False
    indexes: Path | None = None  # the folder of vector indexes


class Server:
    """One scorer, listening. ``start``, then ``stop``; both on the event loop that it belongs to."""

    def __init__(
        self, *, project: str, online_url: str, log_store: Log, models: ModelStore, clock: Clock, options: ServeOptions
    ) -> None:
        self._options, self._log = options, GuardedLog(log_store, Breaker("log", options.breakers))
        self.metrics = Metrics()
        self._reader = open_reader(online_url, tracking=options.tracking)
        self._online = open_online(online_url, project=project)  # to say something of a release, in threads: the reader only reads
        self._predictions: PredictionLog | None = None
        if options.log_predictions:
            self._predictions = PredictionLog(
                self._log,
                predictions(project).topic,
                dropped=lambda reason, n: self.metrics.dropped.labels(reason).inc(n),
                logged=lambda n: self.metrics.logged.inc(n),
            )
        self.scorer = Scorer(
            self._reader,
            models,
            project=project,
            clock=clock,
            stale_after_us=options.stale_after_us,
            predictions=self._predictions,
            metrics=self.metrics,
            publish=self._online.put_meta,
            share=self._online.share,
            breaker=Breaker("online store", options.breakers),
            feature_cache_bytes=options.feature_cache_bytes,
            vectors=VectorIndexes(None if options.indexes is None else VectorStore(options.indexes)),
        )
        self.producer = Producer(self._log)
        self.upkeep = Upkeep(self.scorer, self._log)
        self.metrics.registry.register(BreakerMetrics(self.upkeep.breakers))
        tracer: Tracer | None = open_telemetry("featureflow-serve") if options.tracing else None
        self._routes = Routes(self.scorer, self.producer, self.upkeep, Document(version("featureflow"), clock), tracer=tracer)
        self._connections: Connections | None = None
        self._listening: asyncio.Server | None = None
        self.metrics.gauge(
            "pending_stream_count", "Requests that wait for their turn", lambda: self.scorer.lanes.waiting
        )
        self.metrics.gauge("model_active_streams", "Turns under way", lambda: self.scorer.lanes.active)
        pool = models.pool
        self.metrics.gauge("featureflow_model_sessions", "Sessions held ready to run", lambda: len(pool.keys))
        self.metrics.gauge("featureflow_model_session_bytes", "Bytes of their files", lambda: pool.held_bytes)
        self.metrics.counts(
            "featureflow_model_session_asks",
            "Sessions found, loaded, and dropped",
            "outcome",
            lambda: {str(outcome): count for outcome, count in pool.outcomes.items()},
        )
        finalized = self.scorer.way.finalized
        self.metrics.counts(
            "featureflow_finalized",
            "Features of an entity that were computed, or were known since its state was the same before",
            "how",
            lambda: {"computed": finalized.computed, "known": finalized.found},
        )
        self.metrics.gauge("featureflow_finalized_bytes", "Of states and features that are remembered", lambda: finalized.bytes)
        waiting = self._predictions
        self.metrics.gauge(
            "featureflow_prediction_log_waiting",
            "Predictions not yet appended",
            lambda: waiting.waiting if waiting else 0,
        )

    async def start(self) -> str:
        """Connect, load, listen; the URL. Raises UnavailableError or SettingsError, and then holds nothing open."""
        options = self._options
        try:
            await self._reader.start()
            await self.upkeep.start()
            self.producer.start()
            if self._predictions is not None:
                self._predictions.start()
            listener = bind(options.host, options.port, shared=options.share_port)
            listener.setblocking(False)
            self._connections = Connections(self._routes, most=_connections_most())
            loop = asyncio.get_running_loop()
            self._listening = await loop.create_server(self._connections.connect, sock=listener, backlog=1024)
        except BaseException:
            await self.stop()
            raise
        gc.collect()
        gc.freeze()  # what is loaded now stays: the collector need not look at it again
        gc.set_threshold(GARBAGE)
        host, port = listener.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    async def stop(self) -> None:
        """Refuse new connections, finish the requests under way, and their shadows, append what is logged, let go of everything."""
        loop = asyncio.get_running_loop()
        ended_s = loop.time() + DRAIN_S
        self.upkeep.draining = True
        if self._listening is not None:
            self._listening.close()
        if self._connections is not None:
            await self._connections.close(DRAIN_S)
            self._connections = None
        self.upkeep.close()
        await self.scorer.drain(max(0.0, ended_s - loop.time()))
        await asyncio.to_thread(self.producer.close, FLUSH_S)
        if self._predictions is not None:
            await asyncio.to_thread(self._predictions.close, FLUSH_S)
        self.scorer.close()
        await self._reader.close()
        self._online.close()


def _connections_most() -> int:
    """``limits.CONNECTIONS``, or what the process may have open beside its own files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.CONNECTIONS + OWN_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return limits.CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, min(limits.CONNECTIONS, soft - OWN_FILES))


def run(
    *,
    project: str,
    online_url: str,
    log_store: Log,
    models: ModelStore,
    clock: Clock,
    options: ServeOptions,
    started: Callable[[str], None] | None = None,
    ending: Callable[[], None] | None = None,
    restarts: Callable[[], int] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain (``DRAIN_S``, ``FLUSH_S``) and return. Call it in the process's main thread.

    Raises UnavailableError when a server does not answer at start (naming its setting), SettingsError when the port is taken.
    ``started`` is called with the URL once it listens, ``ending`` when it is told to end, before it drains. ``restarts`` says how often
    another scorer of the same port was started again.
    """
    log_as_json()
    sys.setswitchinterval(SWITCH_S)

    def make() -> Server:
        return Server(project=project, online_url=online_url, log_store=log_store, models=models, clock=clock, options=options)

    uvloop.run(_serve(make, started, ending, restarts))


async def _serve(
    make: Callable[[], Server],
    started: Callable[[str], None] | None,
    ending: Callable[[], None] | None,
    restarts: Callable[[], int] | None,
) -> None:
    """``make``: the server, on the event loop that it is to belong to."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    server = make()
    if restarts is not None:
        server.metrics.gauge("featureflow_scorer_restarts", "Scorers of this port that died and were started again", restarts)
    url = await server.start()
    log.info("serving", url=url, pid=os.getpid())
    if started is not None:
        started(url)
    await ended.wait()
    if ending is not None:
        ending()
    log.info("draining")
    await server.stop()
    log.info("ended")
