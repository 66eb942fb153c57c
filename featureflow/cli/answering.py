"""Which versions of a model answer callers now, and whether their inputs can be computed by the definitions."""

from __future__ import annotations

from featureflow.cli.context import Context
from featureflow.define.spec import Model, Project
from featureflow.errors import ModelError, TablesMissingError


class Answering:
    """Of the project's model folder as this machine has it."""

    def __init__(self, here: Context) -> None:
        from featureflow.models.release import decoded

        try:
            newest = here.registry.releases.newest()
        except TablesMissingError:
            newest = {}
        self._released = {name: [arm.version for arm in decoded(row.document, name).arms] for name, row in newest.items()}
        self._store = here.models
        self._entries = self._store.list()

    def versions(self, model: Model) -> list[str]:
        """Those that are released, the candidate's included; the latest one where none is. None where the folder has none."""
        if not any(entry.name == model.name for entry in self._entries):
            return []
        return self._released.get(model.name) or [self._store.resolve(model.name)]

    def is_released(self, name: str) -> bool:
        """Whether a version of this model was released, so that what is added answers nobody by itself."""
        return name in self._released

    def unfit(self, project: Project) -> dict[str, str]:
        """Model -> why scorers refuse it, where the inputs of a version that answers cannot be computed. Of versions that can be read."""
        return self._looked_at(project)[0]

    def of_other_inputs(self, project: Project) -> dict[str, list[str]]:
        """Model -> versions that answer with the inputs that they were added with, the definition having others."""
        return self._looked_at(project)[1]

    def _looked_at(self, project: Project) -> tuple[dict[str, str], dict[str, list[str]]]:
        from featureflow.models.manifest import as_added

        manifests = {(entry.name, entry.version): entry.manifest for entry in self._entries}
        refused: dict[str, str] = {}
        others: dict[str, list[str]] = {}
        for model in project.models:
            for version in self.versions(model):
                if (manifest := manifests.get((model.name, version))) is None:
                    continue
                try:
                    if as_added(manifest, project) is not model:
                        others.setdefault(model.name, []).append(version)
                except ModelError as error:
                    refused.setdefault(model.name, str(error))
        return refused, others
