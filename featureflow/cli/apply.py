"""``featureflow apply``: check the definitions, show what changes, register them."""

from __future__ import annotations

from typing import Annotated

import typer

from featureflow.cli.context import Context, Json
from featureflow.cli.output import Output, counted


def register(app: typer.Typer) -> None:
    app.command("apply")(apply)


def apply(
    context: typer.Context,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would change, and change nothing.")] = False,
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Delete the state of view versions that are no longer applied, and what is published no more."),
    ] = False,
    json: Json = False,
) -> None:
    """Check the definitions file and register it; says what changes first."""
    output = Output(json=json)
    here: Context = context.obj
    with here:
        written = here.written
        changes = here.registry.plan(written)
        for line in str(changes).splitlines():
            output.say(line)
        pruned: dict[str, int] = {}
        withdrawn = 0
        if not plan:
            here.registry.apply(written, partitions=here.settings.log.partitions)
            if prune:
                pruned = here.registry.drop_retired()
                withdrawn = here.registry.withdraw(written)
            output.say("Applied." if changes.changes else "Nothing to change; everything stands.")
            for view, keys in pruned.items():
                output.say(f"{view}: {counted(keys, 'key')} deleted.")
            if withdrawn:
                output.say(f"{counted(withdrawn, 'published value')} deleted.")
            for view in here.registry.retired():
                output.say(f"{view} is retired; its state goes with: featureflow apply --prune")
        output.result(
            {
                "changes": [
                    {"action": c.action, "kind": c.kind, "name": c.name, "detail": c.detail} for c in changes.changes
                ],
                "applied": not plan,
                "pruned": pruned,
                "withdrawn": withdrawn,
            }
        )
