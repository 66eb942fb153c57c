"""``featureflow rebuild``: fold views again whose state was lost."""

from __future__ import annotations

from typing import Annotated

import typer

from featureflow.cli.context import Context, Json
from featureflow.cli.output import Output
from featureflow.errors import StateError


def register(app: typer.Typer) -> None:
    app.command("rebuild")(rebuild)


def rebuild(
    context: typer.Context,
    views: Annotated[list[str] | None, typer.Argument(help="Views; none: every view whose state was lost.")] = None,
    json: Json = False,
) -> None:
    """Drop the state of views, and fold them again. From history and the log, while the scorer says what it is missing."""
    output = Output(json=json)
    here: Context = context.obj
    with here:
        project = here.applied
        ids = {view.name: view.id for view in project.views}
        if unknown := sorted(set(views or ()) - ids.keys()):
            raise StateError(f"{', '.join(unknown)} is no view that is applied here; there are {', '.join(sorted(ids))}")
        chosen = [ids[name] for name in views] if views else sorted(here.registry.inspection.lost(project))
        here.registry.rebuild(project, chosen)
        for view_id in chosen:
            output.say(f"{view_id} is folded again, from history where the log has deleted events, then from the log.")
        if not chosen:
            output.say("No view has lost its state.")
        output.result({"rebuilt": chosen})
