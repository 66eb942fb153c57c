"""``featureflow watch``: the consumer that scores events as they arrive, and raises alerts."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Annotated

import structlog
import typer

from featureflow.cli import consume
from featureflow.cli.context import Context, Json
from featureflow.cli.output import Output
from featureflow.log_lines import log_as_json
from featureflow.settings import WatchSettings, duration_us
from featureflow.store.mirror import buckets_of, mirrored, partitions_of, watched_from
from featureflow.store.online.protocol import OnlineStore
from featureflow.watch.metrics import WatchMetrics
from featureflow.watch.watching import Applied, Watching, WatchOptions


def register(app: typer.Typer) -> None:
    app.command("watch")(watch)


def watch(
    context: typer.Context,
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL[@VERSION]]...", help="Models that an alert watches; all of them if left out.")
    ] = None,
    json: Json = False,
) -> None:
    """Score events as they arrive, and raise alerts, exactly once. An alert is on the average of an entity's scores."""
    here: Context = context.obj
    log_as_json()
    with here, consume.stopping() as stop, consume.metrics("watch", here.settings.watch) as registry:
        options, metrics, made = _options(here.settings.watch, here.settings.online.stale_after), WatchMetrics(registry), Counter[str]()
        named = {name: ref for name, _, ref in (one.partition("@") for one in models or ())}

        def current() -> Applied | None:
            return None if here.mirrored() is None else applied(here.online)

        def run(found: Applied, leave: threading.Event) -> None:
            if not found.project.alerts and not named:
                structlog.get_logger("featureflow.watch").warning("nothing_to_watch", problem="no alert is applied: it waits for one")
                leave.wait()
                return
            watching = Watching(
                here.log,
                here.online,
                here.models,
                found,
                here.clock,
                metrics,
                options,
                models=named,
                schemas=here.schemas,
                failpoint=here.watch_failpoint,
            )
            try:
                watching.run(leave)
            finally:
                made.update(watching.made)

        consume.follow(stop, current, run)
        Output(json=json).result({"scores": made["scores"], "alerts": made["alerts"]})


def applied(online: OnlineStore) -> Applied | None:
    """What there is to watch; None before the first apply. Raises StateError, UnavailableError."""
    project = mirrored(online)
    if project is None:
        return None
    counts = {source.name: partitions_of(online, source.name) for source in project.sources}
    pairs = {(alert.model, alert.source) for alert in project.alerts}
    return Applied(
        project,
        {name: count for name, count in counts.items() if count is not None},
        buckets_of(online),
        {pair: watched_from(online, *pair) for pair in pairs},
    )


def _options(settings: WatchSettings, stale_after: str) -> WatchOptions:
    wait_us = duration_us(settings.wait, "watch.wait")
    return WatchOptions(settings.group, settings.member, wait_us, duration_us(stale_after, "online.stale_after"), settings.webhook)
