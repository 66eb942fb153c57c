"""Which versions of a model answer callers or are tried on them now, and whether their inputs can be computed by the definitions.

``apply`` says it of definitions before they are applied, ``doctor`` of those that are; both in the words of ``Unfit.said``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from featureflow.cli.context import Context
from featureflow.define.spec import Model, Project
from featureflow.errors import ModelError, TablesMissingError

if TYPE_CHECKING:
    from featureflow.models.listing import ModelListing

Role = Literal["latest", "stable", "candidate", "shadow"]


@dataclass(frozen=True)
class Unfit:
    """A version whose inputs cannot be computed by the definitions. ``why``: as scorers say it. ``said``: what they do then, why, and what
    to do."""

    model: str
    version: str
    role: Role
    why: str
    said: str

    @property
    def is_refused(self) -> bool:
        """Whether callers have no answer by it. In a candidate's place the stable version answers, and a shadow answers nobody."""
        return self.role in ("latest", "stable")


class Answering:
    """Of the project's model folder as this machine has it."""

    def __init__(self, here: Context, models: ModelListing) -> None:
        from featureflow.models.release import decoded

        try:
            newest = here.registry.releases.newest()
        except TablesMissingError:
            newest = {}
        self._released: dict[str, dict[str, Role]] = {}
        for name, row in newest.items():
            release = decoded(row.document, name)
            roles: dict[str, Role] = {release.stable.version: "stable", **{arm.version: "candidate" for arm in release.candidates}}
            self._released[name] = roles if release.shadow is None else {**roles, release.shadow.version: "shadow"}
        self._models = models
        self._entries = models.list()

    def versions(self, model: Model) -> list[str]:
        """Those that are released, the candidate's included; the latest one where none is. Empty where the folder has none."""
        return [version for version, role in self._roles(model).items() if role != "shadow"]

    def is_released(self, name: str) -> bool:
        """Whether a version of this model was released, so that what is added answers nobody by itself."""
        return name in self._released

    def unfit(self, project: Project) -> list[Unfit]:
        """Of versions that can be read, shadows included."""
        return self._looked_at(project)[0]

    def of_other_inputs(self, project: Project) -> dict[str, list[str]]:
        """Model -> versions that go on with the inputs that they were added with, the definition having others."""
        return self._looked_at(project)[1]

    def _roles(self, model: Model) -> dict[str, Role]:
        """By version."""
        if not any(entry.name == model.name for entry in self._entries):
            return {}
        return self._released.get(model.name) or {self._models.resolve(model.name): "latest"}

    def _looked_at(self, project: Project) -> tuple[list[Unfit], dict[str, list[str]]]:
        from featureflow.models.manifest import as_added

        manifests = {(entry.name, entry.version): entry.manifest for entry in self._entries}
        unfit: list[Unfit] = []
        others: dict[str, list[str]] = {}
        for model in project.models:
            for version, role in self._roles(model).items():
                if (manifest := manifests.get((model.name, version))) is None:
                    continue
                try:
                    if as_added(manifest, project) is not model:
                        others.setdefault(model.name, []).append(version)
                except ModelError as error:
                    why = str(error)
                    unfit.append(Unfit(model.name, version, role, why, _said(project, model.name, role, why)))
        return unfit, others


def _said(project: Project, name: str, role: Role, why: str) -> str:
    """``why`` ends with what can be done."""
    from featureflow.models.reach import ensembles_of

    if role == "shadow":
        return f"the shadow of {name} scores nothing with these definitions: {why}, or end it: featureflow model shadow {name} --off"
    if role == "candidate":
        return (
            f"the candidate of {name} answers nobody with these definitions, the stable version does in its place: {why}, or end it: "
            f"featureflow model rollback {name}"
        )
    scores = " and ".join([name, *ensembles_of(project, name)])
    return f"the {role} version of {name} cannot answer with these definitions, and scores of {scores} are refused (503): {why}"
