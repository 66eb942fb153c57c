"""``featureflow apply``: check the definitions, show what changes, register them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from featureflow.cli.answering import Answering, Unfit
from featureflow.cli.context import Context, Json
from featureflow.cli.output import Output, counted
from featureflow.define.spec import Project
from featureflow.errors import ModelError, SettingsError, StateError, UnavailableError
from featureflow.store.schemas.open import Lack, lacking


def register(app: typer.Typer) -> None:
    app.command("apply")(apply)


def apply(
    context: typer.Context,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would change, and change nothing.")] = False,
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Delete the state of view versions that are no longer applied, and what is published no more."),
    ] = False,
    no_schemas: Annotated[
        bool, typer.Option("--no-schemas", help="Do not look whether the newest schemas of Avro and Protobuf have the fields.")
    ] = False,
    json: Json = False,
) -> None:
    """Check the definitions file and register it. Says what changes first."""
    output = Output(json=json)
    here: Context = context.obj
    with here:
        written = here.written
        changes = here.registry.plan(written)
        for line in str(changes).splitlines():
            output.say(line)
        lacks = [] if no_schemas else _lacks(here, written)
        for lack in lacks:
            output.warn(lack.said)
        if not plan and any(lack.refused for lack in lacks):
            raise SettingsError(
                "nothing is applied: " + "; ".join(lack.said for lack in lacks if lack.refused)
                + ". To apply it all the same, before its producers are brought up to date, run: featureflow apply --no-schemas"
            )
        unfit = _versions(here, written, output, changing=bool(changes.changes))
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
                "schemas": [lack.said for lack in lacks],
                "models": {one.model: one.why for one in unfit if one.is_refused},
                "unfit": [asdict(one) for one in unfit],
            }
        )


def _versions(here: Context, written: Project, output: Output, *, changing: bool) -> list[Unfit]:
    """Say whose inputs these definitions cannot compute and, where they change anything, who goes on; the former."""
    try:
        answering = Answering(here, here.listing)  # on a machine that only ingests, which has no ONNX Runtime, too
        unfit = answering.unfit(written)
    except (ModelError, StateError) as error:      # nothing that is applied depends on it
        output.warn(f"whether versions of models can be computed was not looked at: {error}")
        return []
    for one in unfit:
        output.warn(one.said)
    if changing:
        _say_who_goes_on(answering, written, output)
    return unfit


def _say_who_goes_on(answering: Answering, written: Project, output: Output) -> None:
    for name, versions in answering.of_other_inputs(written).items():
        alone = f"version {versions[0]} goes on with the inputs that it was added with"
        several = f"versions {' and '.join(versions)} go on with the inputs that they were added with"
        released = f"try it first: featureflow model canary {name} VERSION"
        unreleased = f"try it before it answers everybody: featureflow model release {name} {versions[0]}, then canary"
        output.say(
            f"{name}: {alone if len(versions) == 1 else several}. A version that is added from now on has those of the definition; "
            f"{released if answering.is_released(name) else unreleased}"
        )


def _lacks(here: Context, written: Project) -> list[Lack]:
    """What the schemas of the registry lack of these definitions; also that it could not be asked, which is no reason to refuse them."""
    found = []
    for source in (source for source in written.sources if source.format != "json"):
        if here.schemas is None:
            found.append(Lack(f"the records of {source.name} are in {source.format}: set log.schema_registry_url", refused=False))
            continue
        try:
            found += lacking(source, here.schemas)
        except (SettingsError, UnavailableError) as error:
            found.append(Lack(f"whether the schema of {source.name} has its fields was not looked at: {error}", refused=False))
    return found
