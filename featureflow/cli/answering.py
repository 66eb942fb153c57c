"""Which versions of a model answer callers now, and whether they fit its definition."""

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

    def unfit(self, project: Project) -> dict[str, str]:
        """Model -> why scorers refuse it, where a version that answers was made for other inputs. Of versions that can be read."""
        manifests = {(entry.name, entry.version): entry.manifest for entry in self._entries}
        found: dict[str, str] = {}
        for model in project.models:
            for version in self.versions(model):
                if (manifest := manifests.get((model.name, version))) is None:
                    continue
                try:
                    manifest.check_inputs(model)
                except ModelError as error:
                    found.setdefault(model.name, str(error))
        return found
