"""``featureflow init``: a project that works."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from featureflow.cli.context import Json
from featureflow.cli.output import Output
from featureflow.errors import SettingsError

FILES = ("features.py", "featureflow.toml", "produce.py", "train.py", "README.md")


def register(app: typer.Typer) -> None:
    app.command("init")(init)


def init(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    json: Json = False,
) -> None:
    """Make a project that works. Definitions, settings, a producer of sample events, and a model to train."""
    output = Output(json=json)
    template = resources.files("featureflow.cli") / "template"
    standing = [name for name in FILES if (folder / name).exists()]
    if standing:
        raise SettingsError(
            f"{folder} already holds {', '.join(standing)}; name a new folder, so that nothing is overwritten"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        text = (template / name).read_text("utf-8")
        (folder / name).write_text(text.replace('name = "payments"', f'name = "{project_name(folder)}"', 1), "utf-8")
    output.say(f"Made {folder} with {', '.join(FILES)}.\n")
    output.say(f"Next:\n  cd {folder}\n  featureflow apply\n  featureflow up")
    output.result({"folder": str(folder), "files": list(FILES)})


def project_name(folder: Path) -> str:
    """The folder's name as a project's, written once: from then on the setting says it, whatever becomes of the folder."""
    return re.sub(r"[^a-z0-9_-]+", "-", folder.resolve().name.lower()).strip("-_")[:64] or "payments"
