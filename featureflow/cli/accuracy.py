"""``featureflow accuracy``: the consumer that joins labels to logged scores, and tells how well each model version does."""

from __future__ import annotations

import threading
from typing import Annotated

import structlog
import typer

from featureflow.cli import consume
from featureflow.cli.context import Context, Json
from featureflow.cli.output import Output
from featureflow.define.spec import Project
from featureflow.errors import StateError
from featureflow.log_lines import log_as_json
from featureflow.store.mirror import ACCURACY_DOCUMENT, accuracy_of
from featureflow.store.schemas.open import records_of
from featureflow.watch.accuracy import AccuracyWatch


def register(app: typer.Typer) -> None:
    app.command("accuracy")(accuracy)


def accuracy(
    context: typer.Context,
    show: Annotated[bool, typer.Option("--show", help="Print what was told last, and end.")] = False,
    json: Json = False,
) -> None:
    """Join labels to logged scores, and publish live accuracy. Of each model version; it runs until it is told to end."""
    here: Context = context.obj
    output = Output(json=json)
    with here:
        if show:
            _show(here, output)
            return
        log_as_json()

        ran = False

        def run(project: Project, leave: threading.Event) -> None:
            nonlocal ran
            if not project.labels and not ran:
                raise StateError("the definitions that are applied have no label: write class Outcome(Label, of=MODEL, ...), then apply")
            ran = True
            if not project.labels:
                structlog.get_logger("featureflow.watch").warning("nothing_to_join", problem="no label is applied: it waits for one")
                leave.wait()
                return
            AccuracyWatch(
                here.log, here.online, project, here.clock, records=lambda source: records_of(source, here.schemas, here.clock)
            ).run(leave)

        with consume.stopping() as stop:
            consume.follow(stop, here.mirrored, run)
        output.result({"stopped": True})


def _show(here: Context, output: Output) -> None:
    found = accuracy_of(here.online.get_meta(ACCURACY_DOCUMENT))
    rows = [(model, version, told) for model, versions in found.items() for version, told in versions.items()]
    output.table(
        ("model", "version", "labels", "AUC", "base rate", "calibration error"),
        [
            (model, version, str(told.labels), _number(told.auc, told.auc_error), _number(told.base_rate), _number(told.calibration_error))
            for model, version, told in rows
        ],
    )
    if not rows:
        output.say("No score has met its label yet; one counts once no earlier label of it can come.")
    output.result(found)


def _number(value: float | None, error: float | None = None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if error is None else f"{value:.4f} +- {error:.4f}"
