"""What a version computes its inputs from, kept with it: it goes on with that when the definition of its model has other inputs."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from featureflow.define import spec
from featureflow.define.version import feature_version


class Reads(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``inputs``: name -> expression. ``features``: reference -> its version (see ``define.version``). ``fields``: ``request:field`` ->
    its type."""

    inputs: dict[str, spec.Expr]
    features: dict[str, str]
    fields: dict[str, str]

    @staticmethod
    def of(project: spec.Project, model: spec.Model) -> Reads:
        """What a definition says. Every column that it reads is the project's."""
        columns = dict.fromkeys(name for one in model.inputs for name in spec.columns_of(one.expr))
        features, fields = _features(project, columns), _fields(project, columns)
        return Reads(
            inputs={one.name: one.expr for one in model.inputs},
            features={name: features[name] for name in columns if name in features},
            fields={name: fields[name] for name in columns if name in fields},
        )

    def lacks(self, project: spec.Project) -> Iterator[str]:
        """What of it the project does not have, or has with another meaning, each as a sentence's beginning."""
        features, fields = _features(project, self.features), _fields(project, self.fields)
        for name, version in self.features.items():
            if name not in features:
                yield f"the feature {name} is not in the definitions"
            elif features[name] != version:
                yield f"the feature {name} is calculated otherwise now"
        for name, kind in self.fields.items():
            if name not in fields:
                yield f"the request field {name} is not in the definitions"
            elif fields[name] != kind:
                yield f"the request field {name} is {fields[name]} now and was {kind}"


def _features(project: spec.Project, names: dict[str, str] | dict[str, None]) -> dict[str, str]:
    """Reference -> version, of those of these names that the project has."""
    return {
        feature.reference: feature_version(view, feature, project.source(feature.aggregation.source))
        for view in project.views
        for feature in view.features
        if feature.reference in names
    }


def _fields(project: spec.Project, names: dict[str, str] | dict[str, None]) -> dict[str, str]:
    """``request:field`` -> type. Whether it may be null, its categories and its length are the definitions' own: they say what is taken."""
    found = {f"{request.name}:{field.name}": field for request in project.requests for field in request.fields}
    return {name: f"vector of {field.size}" if field.type == "vector" else field.type for name, field in found.items() if name in names}
