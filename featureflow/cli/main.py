"""The application: global options, the verbs, and what an error looks like.

A verb's module is imported when that verb runs: most need only a part of what is installed, and a machine without ONNX Runtime can still
ingest.
"""

from __future__ import annotations

import io
import os
import sys
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from featureflow.cli import tether
from featureflow.cli.context import WITHOUT_RUNTIME, Context
from featureflow.cli.output import said_of
from featureflow.errors import FeatureFlowError, ModelError

VERBS = ("init", "apply", "up", "ingest", "history", "serve", "watch", "accuracy", "index", "get", "dataset", "model", "rebuild", "doctor")
ANY_WORDS = {"ignore_unknown_options": True, "allow_extra_args": True}


class Verbs(TyperGroup):
    """Finds a verb in the module of its name."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in VERBS and (near := get_close_matches(args[0], VERBS, n=1)):
            ctx.fail(f"No such command {args[0]!r}; did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            return None
        verb = typer.Typer(name=cmd_name, rich_markup_mode=None, add_completion=False)
        try:
            import_module(f"featureflow.cli.{cmd_name}").register(verb)
        except ModuleNotFoundError as error:
            if error.name != "onnxruntime":
                raise
            verb.command(cmd_name, context_settings=ANY_WORDS)(without_runtime)
        command = typer.main.get_command(verb)
        command.name = cmd_name
        return command


def without_runtime() -> None:
    """Needs ONNX Runtime: pip install "featureflow[cpu]", or "featureflow[gpu]" on a machine with CUDA."""
    raise ModelError(WITHOUT_RUNTIME)


app = typer.Typer(
    cls=Verbs, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"featureflow {version('featureflow')}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    folder: Annotated[
        Path, typer.Option("--project", "-p", help="The project's folder (where featureflow.toml is).")
    ] = Path("."),
    told: Annotated[bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version, and end.")] = False,
) -> None:
    """Exactly-once windowed features from Kafka, served with a quantized model, from one typed definition."""
    context.obj = Context(folder, dict(os.environ))


def main() -> None:
    tether.hold(os.environ)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what a terminal's encoding has not is no reason to end
    try:
        app()
    except FeatureFlowError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        raise SystemExit(1) from None
    except OSError as error:
        if error.filename is None:
            raise
        sys.stderr.write(f"{said_of(error)}\n")
        raise SystemExit(1) from None
