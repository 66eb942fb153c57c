"""``featureflow history``: the consumer that writes every event to the history database."""

from __future__ import annotations

import threading

import typer

from featureflow.cli import consume
from featureflow.cli.context import Context, Json
from featureflow.cli.output import Output
from featureflow.define.spec import Project
from featureflow.ingest.history_metrics import HistoryMetrics
from featureflow.ingest.history_writer import HistoryWriter
from featureflow.log_lines import log_as_json


def register(app: typer.Typer) -> None:
    app.command("history")(history)


def history(context: typer.Context, json: Json = False) -> None:
    """Write events, predictions and dead letters to history. Each (partition, offset) once; it runs until it is told to end."""
    here: Context = context.obj
    log_as_json()
    with here, consume.stopping() as stop, consume.metrics("history_writer", here.settings.history_writer) as registry:
        settings, metrics = here.settings.history_writer, HistoryMetrics(registry)
        rows = 0

        def run(project: Project, leave: threading.Event) -> None:
            nonlocal rows
            writer = HistoryWriter(
                here.log,
                here.history,
                project,
                here.clock,
                metrics,
                group=settings.group or None,
                member=settings.member or None,
                schemas=here.schemas,
                failpoint=here.failpoint,
            )
            writer.run(leave)
            rows += writer.status().rows

        here.history.ping()                # down at start is an error; later it is waited for
        here.registry.check_owner(here.settings.name)
        consume.follow(stop, here.registry.current, run)       # also where the online store was emptied: it needs nothing of it
        Output(json=json).result({"rows": rows})
