"""``featureflow serve``: the scorer over HTTP."""

from __future__ import annotations

import os
import signal
import sys

import typer

from featureflow.breaker import BreakerSettings
from featureflow.cli.context import Context, Json
from featureflow.cli.output import Output
from featureflow.cli.siblings import Siblings
from featureflow.models.pool import SessionPool
from featureflow.models.store import ModelStore
from featureflow.serve.app import ServeOptions, run
from featureflow.settings import ModelSettings, duration_us

WORKER = "FEATUREFLOW_SERVE_WORKER"  # set in the processes that share the port


def register(app: typer.Typer) -> None:
    app.command("serve")(serve)


def serve(context: typer.Context, json: Json = False) -> None:
    """Answer scores and features over HTTP. Told to end, it finishes what is under way."""
    here: Context = context.obj
    output = Output(json=json)
    with here:
        settings = here.settings
        several = settings.serve.workers > 1
        siblings = Siblings(
            [sys.executable, "-m", "featureflow.cli", "--project", str(here.folder), "serve"],
            {**os.environ, WORKER: "1"},
            0 if WORKER in here.environment else settings.serve.workers - 1,
            gave_up=lambda: os.kill(os.getpid(), signal.SIGTERM),  # this one drains as for any other SIGTERM
        )
        options = ServeOptions(
            host=settings.serve.host,
            port=settings.serve.port,
            share_port=several,
            stale_after_us=duration_us(settings.online.stale_after, "online.stale_after"),
            tracking=settings.online.tracking,
            log_predictions=settings.serve.log_predictions,
            feature_cache_bytes=settings.serve.feature_cache_bytes,
            breakers=BreakerSettings(
                duration_us(settings.serve.breaker_timeout, "serve.breaker_timeout") * 1e-6,
                settings.serve.breaker_concurrency,
                settings.serve.breaker_error_share,
            ),
            tracing=settings.tracing.enabled,
            indexes=settings.path(settings.serve.indexes),
        )

        siblings.start()
        try:
            run(
                project=settings.name,
                online_url=here.online_url,
                log_store=here.log,
                models=ModelStore(settings.path(settings.models.path), pool=_pool(settings.models)),
                clock=here.clock,
                options=options,
                started=lambda url: output.say(f"Scoring at {url}"),
                ending=siblings.end,  # all drain at the same time
                restarts=lambda: siblings.restarts,
            )
        finally:
            siblings.end()
            in_time = siblings.wait()
    output.result({"stopped": True})
    if not in_time:
        output.warn("a scorer that shares the port had not finished in time and was killed")
        raise typer.Exit(1)
    if siblings.failed:
        output.warn("a scorer that shares the port kept dying: its lines in the log say why")
        raise typer.Exit(1)


def _pool(models: ModelSettings) -> SessionPool:
    idle_s = duration_us(models.idle, "models.idle") * 1e-6
    return SessionPool(sessions=models.sessions, session_bytes=models.session_bytes, idle_s=idle_s)
