"""Whom a candidate or a shadow does not reach, whatever its weight: who asks an ensemble of the model, and streams that it scores.

A candidate is tried on requests for its model. An ensemble is one model of its members' stable versions, and its score is one of all: no
member alone could be told to be at fault, and none rolled back. Averages of a stream are of one version.
"""

from __future__ import annotations

from featureflow.define import spec
from featureflow.errors import ModelError


def ensembles_of(project: spec.Project, model: str) -> list[str]:
    """Of which the model is a member."""
    return [one.name for one in project.models if one.ensemble is not None and model in one.ensemble.members]


def not_reached(project: spec.Project, model: str) -> str:
    """What goes on with the model's stable version, as part of a sentence; empty where all that asks for the model may get a candidate."""
    ensembles = ensembles_of(project, model)
    parts = [f"the ensemble {name}" for name in ensembles]
    parts += [
        f"events of {alert.source} (alert {alert.name})" for alert in project.alerts if alert.model == model or alert.model in ensembles
    ]
    return ", ".join(parts)


def check_reach(project: spec.Project, model: str, step: str, *, alone: bool) -> None:
    """Raises ModelError for a canary or shadow of a member of ensembles, unless it is meant to be tried on the model alone."""
    if alone or not (ensembles := ensembles_of(project, model)):
        return
    raise ModelError(
        f"{model} is a member of the ensemble {', '.join(ensembles)}, which answers by the stable version of each member: a {step} would "
        f"see none of the ensemble's requests, and be a part of all its answers once it is promoted. To try it all the same on those that "
        f"ask for {model} itself, say --alone"
    )
