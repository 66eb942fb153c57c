"""Which views, join keys and request inputs a model, or a list of features, needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featureflow.define import spec
from featureflow.errors import RequestError
from featureflow.kernel.derive import features_to_inputs
from featureflow.kernel.finalize import Values, ViewKernel

TITLE = "The dataset cannot be made"


@dataclass(frozen=True)
class Needs:
    """``model`` None: the features themselves are the inputs, in the order of ``references``."""

    project: spec.Project
    model: spec.Model | None
    references: tuple[str, ...]            # view:feature
    views: tuple[spec.View, ...]           # in order of first use
    join_keys: dict[str, spec.FieldType]
    context: dict[str, spec.Field]         # request input's name -> its field
    requests: dict[str, str]               # request:field -> the request input's name

    @staticmethod
    def of(project: spec.Project, *, model: str | None = None, features: Sequence[str] | None = None) -> Needs:
        """Exactly one of ``model`` and ``features``. Raises RequestError for names that the project does not have."""
        if (model is None) == (features is None):
            raise RequestError(TITLE, "say either the model that it is for, or the features that it holds")
        fields = {f"{request.name}:{field.name}": field for request in project.requests for field in request.fields}
        if model is not None:
            declared = next((m for m in project.models if m.name == model), None)
            if declared is None:
                raise RequestError(TITLE, f"there is no model {model!r}; the project has {_listed(m.name for m in project.models)}")
            names = dict.fromkeys(name for i in declared.inputs for name in spec.columns_of(i.expr))
        else:
            declared, names = None, dict.fromkeys(features or ())
        known = {feature.reference for view in project.views for feature in view.features}
        references = tuple(name for name in names if name in known)
        requests = {name: fields[name].name for name in names if name in fields}
        unknown = [name for name in names if name not in known and name not in fields]
        if unknown:
            raise RequestError(TITLE, f"there is no feature {unknown[0]!r}; write VIEW:FEATURE, one of {_listed(sorted(known))}")
        views = tuple(project.view(name) for name in dict.fromkeys(reference.partition(":")[0] for reference in references))
        types: dict[str, spec.FieldType] = {entity.name: entity.type for entity in project.entities}
        return Needs(
            project, declared, references, views, {view.join_key: types[view.entity] for view in views},
            {fields[name].name: fields[name] for name in requests}, requests,
        )

    @property
    def sources(self) -> tuple[spec.Source, ...]:
        """Of all its views, each once."""
        return tuple(self.project.source(name) for name in dict.fromkeys(name for view in self.views for name in view.sources))

    def kernels(self) -> dict[str, ViewKernel]:
        """View name -> kernel."""
        by_name = {source.name: source for source in self.project.sources}
        return {view.name: ViewKernel(view, by_name) for view in self.views}

    def columns(self, values: Mapping[str, Values], context: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """What the model's expressions read: ``view:feature`` (n,), or (n, size) of a sequence even of one, and ``request:field``."""
        columns: dict[str, NDArray[Any]] = {}
        for view in self.views:
            for place, feature in enumerate(view.features):
                if feature.reference in self.references:
                    found = values[view.name]
                    block: NDArray[Any] = found.texts[place] if feature.is_text else found.values[:, view.spans[place]]
                    columns[feature.reference] = block if feature.is_sequence else block[:, 0]
        return {**columns, **{name: context[field] for name, field in self.requests.items()}}

    def inputs(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """(n, width) float64: the model's inputs, or the features side by side, but for those that are strings."""
        if self.model is not None:
            return features_to_inputs(self.model, columns)
        blocks = [columns[name].reshape(len(columns[name]), -1) for name in self.references if columns[name].dtype != object]
        n = len(next(iter(columns.values()))) if columns else 0
        return np.concatenate(blocks, axis=1) if blocks else np.zeros((n, 0))

    @property
    def input_names(self) -> tuple[str, ...]:
        """One per column of ``inputs``; an input of several columns is numbered from its newest, ``delays[0]``."""
        if self.model is not None:
            sizes = [(i.name, i.size) for i in self.model.inputs]
        else:
            by_reference = {f.reference: f for view in self.views for f in view.features}
            sizes = [(name, by_reference[name].numbers) for name in self.references]
        return numbered(sizes)

    @property
    def texts(self) -> tuple[spec.Feature, ...]:
        """The features whose values are strings, where features were asked for by name."""
        if self.model is not None:
            return ()
        by_reference = {f.reference: f for view in self.views for f in view.features}
        return tuple(by_reference[name] for name in self.references if by_reference[name].is_text)


def numbered(sizes: Iterable[tuple[str, int]]) -> tuple[str, ...]:
    """A name per column: ``delay``, or of several ``delays[0]``, ``delays[1]``."""
    return tuple(name if size == 1 else f"{name}[{i}]" for name, size in sizes for i in range(size))


def _listed(names: Any) -> str:
    return ", ".join(names) or "none"
