"""The ensembles that are ready: each put together of the members that answer now, and again whenever one of those is another."""

from __future__ import annotations

from collections.abc import Callable

from featureflow.define import spec
from featureflow.errors import ModelError, RequestError
from featureflow.models.loaded import LoadedModel
from featureflow.serve.answer import Shed
from featureflow.serve.version import Version, Versions


class Ensembles:
    """``member`` gives a model's version that answers when none is named, or why there is none. Belongs to one event loop."""

    def __init__(self, member: Callable[[spec.Model], Version | Shed]) -> None:
        self._member = member
        self._models: dict[str, spec.Model] = {}
        self._ready: dict[str, tuple[list[LoadedModel], Version | Shed]] = {}
        self._versions: Versions | None = None

    def declare(self, versions: Versions) -> None:
        """Follow these definitions."""
        self._models = {model.name: model for model in versions.project.models}
        self._versions, self._ready = versions, {}

    def __contains__(self, name: str) -> bool:
        return name in self._models and self._models[name].ensemble is not None

    def get(self, model: spec.Model, ref: str = "") -> Version | Shed:
        """The ensemble, or why it, or one of its members, does not answer. Raises RequestError (404) where ``ref`` names a version."""
        assert model.ensemble is not None  # what this is asked for
        if ref:
            raise RequestError(
                "No such model version",
                f"{model.name} is an ensemble, whose version follows from its members': ask without @, or ask one of "
                f"{', '.join(model.ensemble.members) or 'its rules'}",
                status=404,
            )
        members: list[LoadedModel] = []
        for name in model.ensemble.members:
            found = self._member(self._models[name]) if name in self._models else Shed("loading", f"model {name} is being loaded")
            if isinstance(found, Shed):
                return found
            assert isinstance(found.loaded, LoadedModel)  # no ensemble has an ensemble for a member
            members.append(found.loaded)
        ready = self._ready.get(model.name)
        if ready is not None and all(a is b for a, b in zip(ready[0], members, strict=True)):
            return ready[1]
        assert self._versions is not None  # ``declare`` came before
        made: Version | Shed
        try:
            made = self._versions.of_ensemble(model, members)
        except ModelError as error:
            made = Shed("model", str(error), retry_after_s=5)
        self._ready[model.name] = members, made
        return made

    def latest(self, name: str) -> Version | None:
        """What answers for this ensemble now."""
        found = self.get(self._models[name])
        return None if isinstance(found, Shed) else found

    def problem(self, name: str) -> str | None:
        """Why it does not answer."""
        found = self.get(self._models[name])
        return found.detail if isinstance(found, Shed) and found.reason != "loading" else None
