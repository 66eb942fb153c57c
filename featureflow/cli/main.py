"""The application: global options, the verbs, and what an error looks like.

Verbs import what they need when they run, so that ``--help`` is quick and a machine without ONNX Runtime can still ingest.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from featureflow.cli import apply, dataset, doctor, get, history, ingest, init, model, rebuild, serve, up
from featureflow.cli.context import Context
from featureflow.errors import FeatureFlowError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback()
def options(
    context: typer.Context,
    folder: Annotated[
        Path, typer.Option("--project", "-p", help="The project's folder (where featureflow.toml is).")
    ] = Path("."),
) -> None:
    """Exactly-once windowed features from Kafka, served with a quantized model, from one typed definition."""
    context.obj = Context(folder, dict(os.environ))


for verb in (init, apply, up, ingest, history, serve, get, dataset, doctor, rebuild):
    verb.register(app)
app.add_typer(model.app, name="model", help="The model store: add, quantize, list.")


def main() -> None:
    try:
        app()
    except FeatureFlowError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        raise SystemExit(1) from None
