"""``featureflow model release``, ``canary``, ``shadow``, ``promote``, ``rollback``, ``releases``: which version answers whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import typer

from featureflow.cli.context import Context, Json
from featureflow.cli.output import Output
from featureflow.clock import duration_us, from_us
from featureflow.define import spec
from featureflow.errors import ModelError
from featureflow.models.manifest import with_inputs_of
from featureflow.models.reach import check_reach, not_reached
from featureflow.models.release import WHOLE, Bounds, Release
from featureflow.models.releasing import Releasing
from featureflow.train.needs import Needs

Name = Annotated[str, typer.Argument(help="The model's name.")]
Version = Annotated[str, typer.Argument(help="A version or alias.")]
MaxErrors = Annotated[float | None, typer.Option("--max-errors", help="Largest share of rows without a score; 0.01 where never said.")]
MaxLatency = Annotated[str, typer.Option("--max-latency", help="That 99 of 100 inferences keep within: 5ms.")]
MaxDrift = Annotated[float | None, typer.Option("--max-drift", help="Largest distance of the scores' distribution from stable's, 0 to 1.")]
MaxAucLoss = Annotated[float | None, typer.Option("--max-auc-loss", help="Largest loss of live AUC against stable.")]
MaxCalibrationLoss = Annotated[
    float | None, typer.Option("--max-calibration-loss", help="Largest growth of the live calibration error against stable.")
]

Alone = Annotated[
    bool, typer.Option("--alone", help="Of a member of an ensemble: try it on what asks for the model itself, which the ensemble does not.")
]


def register(app: typer.Typer) -> None:
    app.command("release")(release)
    app.command("canary")(canary)
    app.command("shadow")(shadow)
    app.command("promote")(promote)
    app.command("rollback")(rollback)
    app.command("releases")(releases)


def release(
    context: typer.Context,
    name: Name,
    version: Annotated[str, typer.Argument(help="A version or alias; the latest if left out.")] = "",
    json: Json = False,
) -> None:
    """Let one version answer everybody, whatever is added after it."""
    here: Context = context.obj
    output = Output(json=json)
    with here:
        made = _releasing(here).release(_model(here, name), version or None)
    _tell(output, made)


def canary(
    context: typer.Context,
    name: Name,
    version: Version,
    weight: Annotated[float, typer.Option(help="Per cent of the traffic, down to 0.01; again with another number changes it.")] = 1.0,
    sticky: Annotated[str, typer.Option(help="A join key whose entity keeps its version: user. None: each request by itself.")] = "",
    stable: Annotated[str, typer.Option(help="The version for the others, where none was released yet.")] = "",
    max_errors: MaxErrors = None,
    max_latency: MaxLatency = "",
    max_drift: MaxDrift = None,
    max_auc_loss: MaxAucLoss = None,
    max_calibration_loss: MaxCalibrationLoss = None,
    alone: Alone = False,
    json: Json = False,
) -> None:
    """Let a candidate answer a part of the traffic. Where it leaves its bounds it ends by itself.

    A bound that is left out is as it was last.
    """
    here: Context = context.obj
    output = Output(json=json)
    with here:
        model = _model(here, name)
        check_reach(here.applied, name, "canary", alone=alone)
        beyond = not_reached(here.applied, name)
        releasing = _releasing(here)
        past = releasing.past(name)
        if sticky:
            _check_sticky(here, name, sticky, [past[-1].stable.version if past else stable, version])
        said: dict[str, object] = {
            "errors": max_errors, "latency_us": _latency_us(max_latency), "score_drift": max_drift, "auc_loss": max_auc_loss,
            "calibration_loss": max_calibration_loss,
        }  # fmt: skip
        bounds = msgspec.structs.replace(past[-1].bounds if past else Bounds(), **{k: v for k, v in said.items() if v is not None})
        made = releasing.canary(
            model, version, _weight(weight), stable=stable or None, sticky=sticky or None, bounds=bounds
        )
    if past:
        _tell_drawn_anew(output, past[-1], made)
    _tell(output, made, beyond)


def _check_sticky(here: Context, name: str, sticky: str, refs: Sequence[str]) -> None:
    """Raises ModelError where none of these versions, each with its own inputs, reads such an entity."""
    manifests = [here.models.manifest(name, ref or None) for ref in refs]
    found = [with_inputs_of(manifest, here.applied) for manifest in manifests]
    keys = dict.fromkeys(key for project in found for key in Needs.of(project, model=name).join_keys)
    if sticky in keys:
        return
    asked = " and ".join(dict.fromkeys(f"{name}@{manifest.version}" for manifest in manifests))
    if not keys:
        raise ModelError(f"--sticky {sticky!r}: {asked} are asked with no entity; leave --sticky out, and each request is drawn by itself")
    raise ModelError(f"--sticky {sticky!r} is no join key that {asked} are asked with; sticky may be {', '.join(keys)}")


def _tell_drawn_anew(output: Output, before: Release, made: Release) -> None:
    """That a candidate which was sticky by one entity is so by another one now: it does not keep whom it has."""
    (arm,) = made.candidates
    if before.sticky in (None, made.sticky) or [known.version for known in before.candidates] != [arm.version]:
        return
    output.warn(
        f"{made.model}@{arm.version} was sticky by {before.sticky} in release {before.number}, and is by {made.sticky} from release "
        f"{made.number} on: who gets it is drawn anew, so that callers may change their version. For whom it had, run: featureflow model "
        f"canary {made.model} {arm.version} --weight {arm.weight * 100 / WHOLE:g} --sticky {before.sticky}"
    )


def _weight(per_cent: float) -> int:
    """Of WHOLE. Raises ModelError."""
    if not 0 < per_cent < 100:             # not of what is no number either
        raise ModelError(f"a candidate gets more than nothing and less than all, not {per_cent:g} %: write 0.01 to 99.99, or promote it")
    return round(per_cent * WHOLE / 100)


def shadow(
    context: typer.Context,
    name: Name,
    version: Annotated[str, typer.Argument(help="A version or alias.")] = "",
    off: Annotated[bool, typer.Option("--off", help="End it.")] = False,
    alone: Alone = False,
    json: Json = False,
) -> None:
    """Let a version score what is asked, and answer nobody. Its scores are in the prediction log and in /metrics."""
    here: Context = context.obj
    output = Output(json=json)
    if bool(version) == off:
        raise ModelError("give the version that is to score beside the others, or --off to end it")
    with here:
        model = _model(here, name)
        check_reach(here.applied, name, "shadow", alone=alone or off)
        beyond = "" if off else not_reached(here.applied, name)
        made = _releasing(here).shadow(model, version or None)
    _tell(output, made, beyond)


def promote(context: typer.Context, name: Name, json: Json = False) -> None:
    """Let the candidate answer everybody."""
    here: Context = context.obj
    output = Output(json=json)
    with here:
        made = _releasing(here).promote(name)
    _tell(output, made)


def rollback(
    context: typer.Context,
    name: Name,
    reason: Annotated[str, typer.Option(help="Kept with the release.")] = "",
    json: Json = False,
) -> None:
    """End the candidate, or go back to the version before. That is, where there is no candidate."""
    here: Context = context.obj
    output = Output(json=json)
    with here:
        made = _releasing(here).rollback(name, reason)
    _tell(output, made)


def releases(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="One model; all if left out.")] = "",
    json: Json = False,
) -> None:
    """What is released, and was: the last of a model is in force."""
    here: Context = context.obj
    output = Output(json=json)
    with here:
        names = [name] if name else [model.name for model in here.applied.models]
        past = [one for model in names for one in _releasing(here).past(model)]
    output.table(
        ("model", "release", "made", "step", "answers", "shadow", "sticky", "reason"),
        [
            (
                one.model, one.number, from_us(one.made_at_us).isoformat(timespec="seconds"), one.step, _shares(one),
                one.shadow.version if one.shadow else "", one.sticky or "", one.reason,
            )
            for one in past
        ],
    )  # fmt: skip
    output.result([msgspec.to_builtins(one) for one in past])


def _tell(output: Output, made: Release, beyond: str = "") -> None:
    """``beyond``: what the candidate or shadow does not reach."""
    beside = f", {made.shadow.version} in its shadow" if made.shadow else ""
    output.say(f"Release {made.number} of {made.model}: {_shares(made)}{beside}. Scorers follow within a second.")
    if made.candidates:
        output.say(f"Each {made.sticky} keeps its version." if made.sticky else "Each request is drawn by itself.")
        output.say(f"The candidate ends by itself beyond {made.bounds.told}; what was not said now is as it was said last.")
    if made.reason:
        output.say(f"It was rolled back {made.reason}.")
    if beyond:
        output.warn(f"It is tried on requests for {made.model}. The stable version goes on for {beyond}.")
    output.result(msgspec.to_builtins(made))


def _shares(made: Release) -> str:
    return ", ".join(f"{arm.version} {arm.weight * 100 / WHOLE:g} %" for arm in made.arms)


def _releasing(here: Context) -> Releasing:
    return Releasing(here.registry.releases, here.online, here.models, here.clock, here.applied)


def _model(here: Context, name: str) -> spec.Model:
    models = {model.name: model for model in here.applied.models}
    if name not in models:
        known = ", ".join(sorted(models)) or "none"
        raise ModelError(f"no model {name!r} is applied; there are {known}. After a change of the definitions: featureflow apply")
    model = models[name]
    if model.ensemble is not None:
        raise ModelError(
            f"{name} is an ensemble, whose version follows from its members': release one of these, "
            f"{', '.join(model.ensemble.members) or 'of which it has none'}"
        )
    return model


def _latency_us(text: str) -> int | None:
    if not text:
        return None
    found = duration_us(text)
    if found is None:
        raise ModelError(f"{text!r} is no duration; write --max-latency 5ms")
    return found
