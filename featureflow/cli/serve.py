"""``featureflow serve``: the scorer over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys

import typer

from featureflow.cli.context import Context, Json
from featureflow.cli.output import Output
from featureflow.models.store import ModelStore
from featureflow.serve.app import ServeOptions, run
from featureflow.settings import duration_us

WORKER = "FEATUREFLOW_SERVE_WORKER"  # set in the processes that share the port


def register(app: typer.Typer) -> None:
    app.command("serve")(serve)


def serve(context: typer.Context, json: Json = False) -> None:
    """Answer scores and features over HTTP until told to end; then finish what is under way."""
    here: Context = context.obj
    output = Output(json=json)
    with here:
        settings = here.settings
        several = settings.serve.workers > 1
        workers: list[subprocess.Popen[bytes]] = []
        if several and WORKER not in here.environment:
            command = [sys.executable, "-m", "featureflow.cli", "--project", str(here.folder), "serve"]
            workers = [
                subprocess.Popen(command, env={**os.environ, WORKER: "1"}) for _ in range(settings.serve.workers - 1)
            ]
        options = ServeOptions(
            host=settings.serve.host,
            port=settings.serve.port,
            share_port=several,
            stale_after_us=duration_us(settings.online.stale_after, "online.stale_after"),
            log_predictions=settings.serve.log_predictions,
            tracing=settings.tracing.enabled,
        )

        def end_workers() -> None:
            for worker in workers:
                worker.terminate()

        try:
            run(
                project=settings.name,
                online_url=here.online_url,
                log_store=here.log,
                models=ModelStore(settings.path(settings.models.path)),
                clock=here.clock,
                options=options,
                started=lambda url: output.say(f"Scoring at {url}"),
                ending=end_workers,  # all drain at the same time
            )
        finally:
            end_workers()
            for worker in workers:
                worker.wait()
    output.result({"stopped": True})
