"""An ensemble that answers: its members' scores, and what its rules make of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np
from numpy.typing import NDArray

from featureflow.define import spec
from featureflow.errors import ModelError
from featureflow.kernel.expression import evaluate
from featureflow.models.loaded import LoadedModel
from featureflow.models.manifest import as_added


@dataclass(frozen=True)
class LoadedEnsemble:
    """What a ``LoadedModel`` is, of several. ``members`` in the order of the definition. Safe for several threads, as they are."""

    model: spec.Model
    members: tuple[LoadedModel, ...]

    variant = "ensemble"
    reason = "its members answer, each as it is"

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def definition(self) -> spec.Ensemble:
        assert self.model.ensemble is not None  # what this is made of
        return self.model.ensemble

    @cached_property
    def version(self) -> str:
        """The first 10 hex digits of the SHA-256 of the rules and of the members' versions: another where anything that decides is."""
        parts = [self.definition.version, *(f"{name}@{version}" for name, version in self.versions.items())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:10]

    @cached_property
    def versions(self) -> dict[str, str]:
        """Member -> its version."""
        return {member.name: member.version for member in self.members}

    @property
    def provider(self) -> str:
        """Where the members run: ``cpu``, ``cuda`` or ``cpu+cuda``."""
        return "+".join(sorted({member.provider for member in self.members})) or "cpu"

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """What ``split`` gives beside the score: ``member@version`` for each member, then the names of the rules."""
        return (*(f"{name}@{version}" for name, version in self.versions.items()), *(rule.name for rule in self.definition.rules))

    def score(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """float64 (n, width of the definition's inputs) -> float64 (n,). Raises ModelError as a member does, and for an undefined score."""
        return self.split(inputs)[:, 0]

    def split(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """float64 (n, width) -> float64 (n, 1 + parts): the score, the members' scores, the rules (NaN where one is undefined).

        Raises ModelError naming the row whose score is undefined, and what a member refuses.
        """
        names = iter(self.model.inputs)
        columns: dict[str, NDArray[np.float64]] = {}
        at = 0
        for member in self.members:
            for _ in member.manifest.inputs:
                next(names)
            columns[spec.score_column(member.name)] = member.score(inputs[:, at : at + member.manifest.width])
            at += member.manifest.width
        for own, column in zip(names, inputs[:, at:].T, strict=True):
            columns[own.name] = column
        n = len(inputs)
        out = np.empty((n, 1 + len(self.parts)))
        for index, member in enumerate(self.members, 1):
            out[:, index] = columns[spec.score_column(member.name)]
        for index, rule in enumerate(self.definition.rules, 1 + len(self.members)):
            out[:, index] = evaluate(rule.expr, columns, n)
        out[:, 0] = evaluate(self.definition.score, columns, n)
        undefined = np.flatnonzero(~np.isfinite(out[:, 0]))
        if len(undefined):
            row = int(undefined[0])
            made = ", ".join(f"{name}: {value}" for name, value in zip(self.parts, out[row, 1:].tolist(), strict=True))
            raise ModelError(f"the score of the ensemble {self.name} is undefined for row {row} ({made}); write a rule for that case")
        return out


def ensemble_of(model: spec.Model, project: spec.Project, members: Sequence[LoadedModel]) -> LoadedEnsemble:
    """The ensemble of these members, with the inputs that they were added with.

    Raises ModelError where the project cannot compute these, or a name that a caller sends stands for two fields.
    """
    added = [as_added(member.manifest, project) for member in members]
    return LoadedEnsemble(_with_inputs(model, project, added), tuple(members))


def _with_inputs(model: spec.Model, project: spec.Project, members: Sequence[spec.Model]) -> spec.Model:
    """The definition itself where these are its inputs."""
    assert model.ensemble is not None  # what this is asked for
    declared = sum(len(project.model(name).inputs) for name in model.ensemble.members)
    inputs = (
        *(msgspec.structs.replace(one, name=f"{member.name}.{one.name}") for member in members for one in member.inputs),
        *model.inputs[declared:],
    )
    if inputs == model.inputs:
        return model
    requests = {f"{request.name}:{field.name}": field.name for request in project.requests for field in request.fields}
    first: dict[str, str] = {}
    for column in (name for one in inputs for name in spec.columns_of(one.expr) if name in requests):
        if first.setdefault(requests[column], column) != column:
            raise ModelError(
                f"the versions of the ensemble {model.name} read {first[requests[column]]} and {column}, and a caller sends one "
                f"{requests[column]}: release a version of each member that reads the same one"
            )
    return msgspec.structs.replace(model, inputs=inputs)


Loaded = LoadedModel | LoadedEnsemble


def split(loaded: Loaded, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The scores and their parts, float64 (n, 1 + parts); a model's has none. Raises ModelError."""
    return loaded.score(inputs)[:, None] if isinstance(loaded, LoadedModel) else loaded.split(inputs)


def parts_of(loaded: Loaded) -> tuple[str, ...]:
    """The names of the parts."""
    return () if isinstance(loaded, LoadedModel) else loaded.parts


def definition_of(loaded: Loaded, project: spec.Project) -> spec.Model:
    """Its definition with the inputs that it was added with. Raises ModelError where the project cannot compute these."""
    return loaded.model if isinstance(loaded, LoadedEnsemble) else as_added(loaded.manifest, project)
