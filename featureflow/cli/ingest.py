"""``featureflow ingest``: the consumer that folds events into the online store."""

from __future__ import annotations

import threading
from typing import cast

import typer

from featureflow.cli import consume
from featureflow.cli.context import Context, Json
from featureflow.cli.later import Later
from featureflow.cli.output import Output
from featureflow.define.spec import Project
from featureflow.ingest.metrics import WorkerMetrics
from featureflow.ingest.worker import Worker
from featureflow.log_lines import log_as_json
from featureflow.store.history.protocol import HistoryStore
from featureflow.store.mirror import buckets_of
from featureflow.tracing import open_telemetry


def register(app: typer.Typer) -> None:
    app.command("ingest")(ingest)


def ingest(context: typer.Context, json: Json = False) -> None:
    """Fold events into the online store, exactly once. It runs until it is told to end."""
    here: Context = context.obj
    log_as_json()
    with here, consume.stopping() as stop, consume.metrics("ingest", here.settings.ingest) as registry:
        settings, metrics = here.settings.ingest, WorkerMetrics(registry)
        tracer = open_telemetry("featureflow-ingest") if here.settings.tracing.enabled else None
        # asked only for what the log has deleted; to import its libraries takes longer than all else of a start
        history = cast("HistoryStore", Later(lambda: here.history))
        events = 0

        def current() -> tuple[Project, int] | None:
            project = here.mirrored()
            return None if project is None else (project, buckets_of(here.online))

        def run(applied: tuple[Project, int], leave: threading.Event) -> None:
            nonlocal events
            project, buckets = applied
            worker = Worker(
                here.log,
                here.online,
                project,
                here.clock,
                metrics,
                group=settings.group or None,
                member=settings.member or None,
                schemas=here.schemas,
                history=history,
                failpoint=here.failpoint,
                tracer=tracer,
                buckets=buckets,
            )
            worker.run(leave)
            events += worker.status().events

        consume.follow(stop, current, run)
        Output(json=json).result({"events": events})
