"""``featureflow dataset``: a training set for a spine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import TaskID

from featureflow.cli.context import Context, Json
from featureflow.cli.output import Output, counted
from featureflow.errors import RequestError
from featureflow.train.dataset import Dataset
from featureflow.train.dataset import dataset as make_dataset
from featureflow.train.needs import Needs
from featureflow.train.visibility import Visibility


def register(app: typer.Typer) -> None:
    app.command("dataset")(dataset)


def dataset(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="The model whose inputs are wanted.")],
    spine: Annotated[Path, typer.Argument(help="CSV or Parquet: join keys, instant, request inputs, label.")],
    out: Annotated[Path, typer.Argument(help="Where to write: a .csv or .parquet file.")],
    instant: Annotated[str, typer.Option(help="The spine's column that says when each row is asked.")] = "at",
    label: Annotated[str, typer.Option(help="The spine's label column.")] = "",
    known_at: Annotated[
        list[str] | None, typer.Option(help="EVENT=FIELD: the datetime field that says when an event was known.")
    ] = None,
    delay: Annotated[
        list[str] | None,
        typer.Option(help="EVENT=5s, or 5s for every event: how long after its event time one is visible."),
    ] = None,
    json: Json = False,
) -> None:
    """Make a training set from history. The inputs that the scorer would have computed for each row of a spine."""
    here: Context = context.obj
    output = Output(json=json)
    _check(out, spine)
    with here, output.progress() as progress:
        known, delays = _pairs(known_at, "--known-at", "EVENT=FIELD"), _delay(delay)
        _check_declared(here, model, known, delays)
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=of)
            progress.update(tasks[what], completed=done, total=of)

        made = make_dataset(
            here.history,
            here.applied,
            spine,
            model=model,
            instant=instant,
            label=label or None,
            known_at=known,
            delay=delays,
            progress=show,
        )
        _write(made, out)
    output.say(
        f"{counted(len(made), 'row')}, {counted(len(made.input_names), 'input')}: {out}"
        + (" (simulated visibility)" if made.simulated else "")
    )
    output.result(
        {
            "rows": len(made),
            "inputs": list(made.input_names),
            "simulated": made.simulated,
            "views": made.views,
            "out": str(out),
        }
    )


def _write(made: Dataset, out: Path) -> None:
    (made.to_csv if out.suffix == ".csv" else made.to_parquet)(out)


def _check(out: Path, spine: Path) -> None:
    """Before the work, not after it."""
    if out.resolve() == spine.resolve():
        raise RequestError("Would be overwritten", f"{out} is the spine itself; name another file")
    if out.suffix not in (".csv", ".parquet"):
        raise RequestError("Unknown format", f"{out} ends in neither .csv nor .parquet; name one of them")
    if not out.parent.is_dir():
        raise RequestError("No such folder", f"{out.parent} is no folder; make it first")


def _check_declared(here: Context, model: str, known_at: dict[str, str], delay: str | dict[str, str] | None) -> None:
    """In this command's own words, before the library would say it in Python's."""
    declared = {*known_at, *({"*"} if isinstance(delay, str) else delay or ())}
    visibility = Visibility(dict.fromkeys(declared, ""))
    if undeclared := visibility.undeclared(Needs.of(here.applied, model=model).sources):
        raise RequestError(
            "Unknown visibility",
            f"nothing says when an event of {undeclared[0]!r} could have been known; by its event time alone a row would see the future. "
            f"Add --known-at {undeclared[0]}=FIELD with the datetime field that says it, or --delay 5s",
        )


def _delay(given: list[str] | None) -> str | dict[str, str] | None:
    if given and len(given) == 1 and "=" not in given[0]:
        return given[0]
    return _pairs(given, "--delay", "EVENT=5s") or None


def _pairs(given: list[str] | None, option: str, shape: str) -> dict[str, str]:
    pairs = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise RequestError("Malformed option", f"{option} {text}: write {shape}")
        pairs[name] = value
    return pairs
