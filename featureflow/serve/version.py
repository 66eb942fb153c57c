"""A version of a model as it can be asked by the definitions that are served: with the inputs that it was added with, whatever the
definition of its model has now.

Versions of equal inputs share a plan and a decoder of bodies, so that what is asked of them travels as it did of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakValueDictionary

from featureflow.define import spec
from featureflow.errors import ModelError
from featureflow.models.ensemble import Loaded, definition_of, ensemble_of
from featureflow.models.loaded import LoadedModel
from featureflow.reading.plan import ModelPlan, Plan
from featureflow.serve.asked import BodyDecoder


class Version:
    """``declared`` is the plan of the definition of its model, ``plan`` that of its own inputs."""

    __slots__ = ("body", "declared", "loaded", "plan")

    def __init__(self, loaded: Loaded, declared: ModelPlan, plan: ModelPlan, body: BodyDecoder) -> None:
        self.loaded, self.declared, self.plan, self.body = loaded, declared, plan, body


class Versions:
    """Makes them, by one plan of everything. Belongs to one event loop."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._bodies: WeakValueDictionary[ModelPlan, BodyDecoder] = WeakValueDictionary()

    @property
    def project(self) -> spec.Project:
        return self.plan.project

    def take(self, loaded: LoadedModel) -> bool:
        """Whether they can compute its inputs."""
        try:
            definition_of(loaded, self.project)
        except ModelError:
            return False
        return True

    def of(self, loaded: LoadedModel) -> Version:
        """Raises ModelError where its inputs cannot be computed by these definitions."""
        return self._made(loaded)

    def of_ensemble(self, model: spec.Model, members: Sequence[LoadedModel]) -> Version:
        """Of its rules, and of members as they were added. Raises ModelError as ``of``, and where two of those read one name of a request
        as two fields."""
        return self._made(ensemble_of(model, self.project, members))

    def _made(self, loaded: Loaded) -> Version:
        model = definition_of(loaded, self.project)
        declared = self.plan.models.get(model.name)
        if declared is None:
            raise ModelError(f"model {model.name}: a view that it reads waits for {self.plan.waiting}; run: featureflow apply")
        plan = self.plan.of(model)
        body = self._bodies.get(plan)
        if body is None:
            body = self._bodies[plan] = BodyDecoder(plan)
        return Version(loaded, declared, plan, body)
