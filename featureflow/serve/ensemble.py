"""The ensembles that are ready: each put together of the members that answer now, and again whenever one of those is another."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from featureflow.define import spec
from featureflow.errors import RequestError
from featureflow.models.ensemble import LoadedEnsemble
from featureflow.models.loaded import LoadedModel
from featureflow.serve.answer import Shed


class Ensembles:
    """``member`` gives a model's version that answers when none is named, or why there is none. Belongs to one event loop."""

    def __init__(self, member: Callable[[spec.Model], LoadedModel | Shed]) -> None:
        self._member = member
        self._models: dict[str, spec.Model] = {}
        self._ready: dict[str, LoadedEnsemble] = {}

    def declare(self, models: Iterable[spec.Model]) -> list[spec.Model]:
        """Follow these definitions; those that are no ensembles, which are loaded from files."""
        self._models = {model.name: model for model in models}
        self._ready = {name: ready for name, ready in self._ready.items() if self._models.get(name) == ready.model}
        return [model for model in self._models.values() if model.ensemble is None]

    def __contains__(self, name: str) -> bool:
        return name in self._models and self._models[name].ensemble is not None

    def get(self, model: spec.Model, ref: str = "") -> LoadedEnsemble | Shed:
        """The ensemble, or why one of its members does not answer. Raises RequestError (404) where ``ref`` names a version."""
        assert model.ensemble is not None  # what this is asked for
        if ref:
            raise RequestError(
                "No such model version",
                f"{model.name} is an ensemble, whose version follows from its members': ask without @, or ask one of "
                f"{', '.join(model.ensemble.members) or 'its rules'}",
                status=404,
            )
        members = []
        for name in model.ensemble.members:
            found = self._member(self._models[name]) if name in self._models else Shed("loading", f"model {name} is being loaded")
            if isinstance(found, Shed):
                return found
            members.append(found)
        ready = self._ready.get(model.name)
        if ready is not None and ready.model is model and all(a is b for a, b in zip(ready.members, members, strict=True)):
            return ready
        self._ready[model.name] = made = LoadedEnsemble(model, tuple(members))
        return made

    def latest(self, name: str) -> LoadedEnsemble | None:
        """What answers for this ensemble now."""
        found = self.get(self._models[name])
        return None if isinstance(found, Shed) else found

    def problem(self, name: str) -> str | None:
        """Why it does not answer."""
        found = self.get(self._models[name])
        return found.detail if isinstance(found, Shed) and found.reason != "loading" else None
