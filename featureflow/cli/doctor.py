"""``featureflow doctor``: is every server there, new enough and set up so that nothing is lost; and how to fix what is not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import typer

from featureflow.cli.answering import Answering
from featureflow.cli.context import WITHOUT_RUNTIME, Context, Json
from featureflow.cli.output import Output, counted, said_of
from featureflow.errors import DefinitionError, FeatureFlowError, TablesMissingError, UnavailableError
from featureflow.settings import mask, misspelt
from featureflow.store.schemas.open import lacking

State = Literal["ok", "warning", "error"]
SIGNS: dict[State, str] = {"ok": "+", "warning": "!", "error": "x"}


@dataclass(frozen=True)
class Finding:
    """What was found of one part."""

    part: str
    state: State
    said: str  # what is there, or what is wrong and how to fix it


def register(app: typer.Typer) -> None:
    app.command("doctor")(doctor)


def doctor(context: typer.Context, json: Json = False) -> None:
    """Check servers, settings and models, and say how to fix each. Exit code 1 where something is wrong."""
    here: Context = context.obj
    output = Output(json=json)
    with here:
        findings = examine(here)
    output.table(("", "part", ""), [(SIGNS[f.state], f.part, f.said) for f in findings])
    output.result({"findings": [asdict(f) for f in findings], "ok": all(f.state != "error" for f in findings)})
    if any(f.state == "error" for f in findings):
        raise typer.Exit(1)


def examine(here: Context) -> list[Finding]:
    """Look at each part in turn. What raises is a finding of its own; without settings that can be read it is the last."""
    findings = [Finding("python", "ok", sys.version.split()[0])]
    checks: list[tuple[str, Callable[[Context], list[Finding]]]] = [
        ("settings", _settings),
        ("definitions", _definitions),
        ("log", _log),
        ("online", _online),
        ("history", _history),
        ("schemas", _schemas),
        ("applied", _applied),
        ("models", _models),
        ("releases", _releases),
        ("onnxruntime", _runtime),
    ]
    for part, look in checks:
        try:
            findings += look(here)
        except FeatureFlowError as error:
            if isinstance(error, DefinitionError) and part != "definitions":       # which has said it
                continue
            findings.append(Finding(part, "error", str(error)))
            if part == "settings":         # all others would say the same
                break
        except OSError as error:
            if error.filename is None:
                raise
            findings.append(Finding(part, "error", said_of(error)))
    return findings


def _settings(here: Context) -> list[Finding]:
    s = here.settings
    return [
        Finding("settings", "ok", f"log {mask(s.log.url)}, online {mask(s.online.url)}, history {mask(s.history.url)}"),
        *(
            Finding("settings", "warning", f"the environment variable {name} is no setting, and changes nothing; did you mean {meant}?")
            for name, meant in misspelt(here.environment).items()
        ),
    ]


def _definitions(here: Context) -> list[Finding]:
    written = here.written
    return [
        Finding(
            "definitions",
            "ok",
            f"{here.settings.project.definitions}: {counted(len(written.views), 'view')}, {counted(len(written.models), 'model')}",
        )
    ]


def _log(here: Context) -> list[Finding]:
    findings = [Finding("log", "ok", here.log.ping())]
    for source in here.written.sources:
        topic = here.log.topic(source.topic)
        findings.append(
            Finding(
                "log", "ok", f"topic {source.topic}: {counted(topic.partitions, 'partition')}, {counted(sum(topic.end.values()), 'record')}"
            )
        )
        findings += [Finding("log", "warning", problem) for problem in here.log.check(source.topic)]
    return findings


def _online(here: Context) -> list[Finding]:
    return [
        Finding("online", "ok", here.online.ping()),
        *(
            Finding("online", "warning" if problem.startswith("warning:") else "error", problem.removeprefix("warning: "))
            for problem in here.online.check()
        ),
    ]


def _history(here: Context) -> list[Finding]:
    return [Finding("history", "ok", here.history.ping())]


def _schemas(here: Context) -> list[Finding]:
    sources = [source for source in here.written.sources if source.format != "json"]
    if here.schemas is None:
        return [
            Finding("schemas", "error", f"the records of {s.name} are in {s.format}: set log.schema_registry_url")
            for s in sources
        ]
    return [
        Finding("schemas", "ok", here.schemas.ping()),
        *(
            Finding("schemas", "error" if lack.refused else "warning", lack.said)
            for source in sources
            for lack in lacking(source, here.schemas)
        ),
    ]


def _applied(here: Context) -> list[Finding]:
    here.registry.check_owner(here.settings.name)
    current = here.registry.current()
    if current is None:
        return [Finding("applied", "warning", "nothing is applied yet. Run: featureflow apply")]
    inspection = here.registry.inspection
    findings = [Finding("applied", "error", problem) for problem in inspection.lost(current).values()]
    try:
        findings += [Finding("applied", "error", problem) for problem in inspection.strayed(current).values()]
    except UnavailableError as error:
        findings.append(Finding("applied", "warning", f"whether its topics are those that were applied was not looked at: {error}"))
    if current != here.written:
        findings.append(
            Finding(
                "applied",
                "warning",
                "the definitions file says something else than what is applied. Run: featureflow apply",
            )
        )
    return findings or [Finding("applied", "ok", "the definitions file is what is applied")]


def _models(here: Context) -> list[Finding]:
    project = here.registry.current() or here.written
    answering = Answering(here, here.models)
    unfit = answering.unfit(project)
    findings = []
    for name, model in ((model.name, model) for model in project.models if model.ensemble is None):
        lost = {one.version: one for one in unfit if one.model == name}
        versions = answering.versions(model)
        if not versions:
            findings.append(Finding("models", "warning", f"{name} has no version yet. Run: featureflow model add {name} FILE.onnx"))
        elif answer := [version for version in versions if version not in lost]:
            findings.append(Finding("models", "ok", f"{name}: in the store, version {' and '.join(answer)} answers"))
        findings += [Finding("models", "error" if one.is_refused else "warning", one.said) for one in lost.values()]
    return findings


def _releases(here: Context) -> list[Finding]:
    """What is released is mirrored, and the versions here are those that were released."""
    from featureflow.models.reach import not_reached
    from featureflow.models.release import content_of, decoded

    try:
        newest = here.registry.releases.newest()
    except TablesMissingError:
        return []
    manifests = {(e.name, e.version): e.manifest for e in here.models.list()}
    findings = []
    if newest and not here.registry.releases.is_mirrored():
        findings.append(Finding("releases", "error", "the online store does not say what is released. Run: featureflow apply"))
    for name, row in newest.items():
        release = decoded(row.document, name)
        for arm in (*release.arms, *([release.shadow] if release.shadow else [])):
            manifest = manifests.get((name, arm.version))
            if manifest is None or content_of(manifest) != arm.content:
                what = "is not in the store here" if manifest is None else "is another one here than was released"
                findings.append(Finding("releases", "error", f"{name}@{arm.version} {what}; put the released one there"))
                break
        else:
            shares = ", ".join(f"{arm.version} {arm.weight / 100:g} %" for arm in release.arms)
            findings.append(Finding("releases", "ok", f"{name}: release {release.number}, {shares}"))
        if (release.candidates or release.shadow) and (beyond := not_reached(here.applied, name)):
            said = f"{name}: release {release.number} is tried on requests for {name}; its stable version goes on for {beyond}"
            findings.append(Finding("releases", "warning", said))
    return findings


def _runtime(here: Context) -> list[Finding]:
    for package in ("onnxruntime-gpu", "onnxruntime"):
        try:
            return [Finding("onnxruntime", "ok", f"{package} {version(package)}")]
        except PackageNotFoundError:
            continue
    return [Finding("onnxruntime", "error", WITHOUT_RUNTIME)]
