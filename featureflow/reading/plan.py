"""What whoever reads features needs to know of the applied definitions, worked out once and then only read.

A plan is replaced whole when the definitions or a partition count change; requests under way keep the one they started with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from featureflow.define import spec
from featureflow.errors import ModelError
from featureflow.kernel import state
from featureflow.kernel.columns import Layout
from featureflow.kernel.finalize import ViewKernel
from featureflow.store.keys import Keys

T = TypeVar("T")
CACHED_IDS = 50_000  # key names remembered per view


class SourcePlan:
    """Where one source's part of a view's state lives."""

    __slots__ = ("keyed", "layout", "name", "offset_keys", "partitions", "stride")

    def __init__(self, keys: Keys, view: spec.View, layout: Layout, partitions: int) -> None:
        self.name: str = layout.source
        self.layout = layout
        self.keyed: bool = layout.keyed
        self.partitions = partitions
        self.stride = len(layout.all) * (1 if layout.keyed else partitions)  # state keys per entity
        self.offset_keys = tuple(
            tuple(keys.offset(view.id, self.name, p, bucket) for p in range(partitions)) for bucket in keys.buckets
        )  # by bucket and partition


class ViewPlan:
    """One view: its kernel, the names of its keys, and what its features are when nothing is known of an entity."""

    def __init__(self, project: spec.Project, view: spec.View, partitions: Mapping[str, int], buckets: int) -> None:
        self._names = Keys(project.name, buckets)
        self.buckets = buckets
        self.view = view
        self.entity_type = next(e.type for e in project.entities if e.name == view.entity)
        self.kernel = ViewKernel(view, {name: project.source(name) for name in view.sources})
        self.sources = tuple(SourcePlan(self._names, view, self.kernel.layouts[name], partitions[name]) for name in view.sources)
        self.offset_keys = tuple(
            tuple(key for source in self.sources for key in source.offset_keys[bucket]) for bucket in range(buckets)
        )  # by bucket
        self.keys_per_id = sum(source.stride for source in self.sources)
        self.nothing: tuple[None, ...] = (None,) * self.keys_per_id
        self.columns = view.spans
        self.single = not any(f.is_sequence or f.is_text for f in view.features)  # each feature is one number
        self.names = [f.name for f in view.features]
        self.references = tuple(feature.reference for feature in view.features)
        self.feature_source = tuple(feature.aggregation.source for feature in view.features)
        empty = {s.name: state.parse(s.layout, [[None] * s.stride]) for s in self.sources}
        self.default_row: NDArray[np.float64] = self.kernel.finalize(empty, np.zeros(1, np.int64)).values[0]
        self._keys = _Remembered(self._keys_of)
        self._numbers = _Remembered(lambda entity_id: 0 if entity_id is None else self._names.number(entity_id))

    def bucket_of(self, entity_id: str | int | None) -> int:
        """The number of the bucket that the entity's state is in; of no entity, the first."""
        return 0 if self.buckets == 1 else self._numbers[entity_id]

    def numbers(self, ids: Sequence[str | int | None]) -> list[int]:
        """Of each id's bucket, as ``bucket_of``."""
        return [0] * len(ids) if self.buckets == 1 else list(map(self._numbers.__getitem__, ids))

    def state_keys(self, entity_id: str | int | None) -> tuple[bytes, ...]:
        """All state keys of one entity: source by source, layout by layout, partition by partition; of no entity, none."""
        return self._keys[entity_id]

    def all_state_keys(self, ids: Sequence[str | int | None]) -> Iterable[bytes]:
        """Those of each id, one after another."""
        return chain.from_iterable(map(self._keys.__getitem__, ids))

    def _keys_of(self, entity_id: str | int | None) -> tuple[bytes, ...]:
        if entity_id is None:
            return ()
        return tuple(
            self._names.state(self.view.entity, entity_id, self.view.id, source.name, partition, layout.part)
            for source in self.sources
            for layout in source.layout.all
            for partition in ([None] if source.keyed else range(source.partitions))
        )


class _Remembered(dict[str | int | None, T]):
    """What was worked out of ids, as a mapping: one that is known costs no call. All of it is forgotten where it becomes too much."""

    def __init__(self, of: Callable[[str | int | None], T]) -> None:
        super().__init__()
        self._of = of

    def __missing__(self, entity_id: str | int | None) -> T:
        if len(self) >= CACHED_IDS:
            self.clear()
        found = self[entity_id] = self._of(entity_id)
        return found


@dataclass(frozen=True, slots=True)
class Used:
    """A feature that a model reads: ``slot`` is the view's place among the model's views."""

    reference: str
    slot: int
    feature: int
    span: slice
    single: bool  # one value, given to expressions as a column (n,); a sequence, even of one value, as (n, size)
    text: bool  # values are strings


@dataclass(frozen=True, slots=True)
class RequestInput:
    """A request input that a model reads: ``column`` is ``request:field``."""

    column: str
    field: spec.Field


class ModelPlan:
    """One model: the views it reads (in order of first use), what it takes from each, and what a caller must send.

    ``other_keys`` and ``other_context``: what a caller may send beside that, since another version of the model reads it: join keys with
    their entity's type, and all fields that are declared under a name.
    """

    def __init__(self, project: spec.Project, model: spec.Model, views: Mapping[str, ViewPlan]) -> None:
        self.model = model
        requests = {f"{r.name}:{f.name}": f for r in project.requests for f in r.fields}
        types = {entity.name: entity.type for entity in project.entities}
        columns = tuple(dict.fromkeys(name for i in model.inputs for name in spec.columns_of(i.expr)))
        references = [name for name in columns if name not in requests]
        self.views: tuple[ViewPlan, ...] = tuple(
            views[name] for name in dict.fromkeys(r.partition(":")[0] for r in references)
        )
        self.join_keys: dict[str, str] = {v.view.join_key: v.entity_type for v in self.views}
        self.slots = tuple(
            list(self.join_keys).index(v.view.join_key) for v in self.views
        )  # view -> place among the ids
        self.context = {requests[name].name: RequestInput(name, requests[name]) for name in columns if name in requests}
        self.other_keys: dict[str, str] = {
            v.join_key: types[v.entity] for v in project.views if v.join_key not in self.join_keys
        }
        self.other_context: dict[str, tuple[spec.Field, ...]] = {}
        for field in requests.values():
            if field.name not in self.context:
                self.other_context[field.name] = (*self.other_context.get(field.name, ()), field)
        used = []
        for reference in references:
            name = reference.partition(":")[0]
            slot = next(i for i, v in enumerate(self.views) if v.view.name == name)
            feature = self.views[slot].references.index(reference)
            declared = self.views[slot].view.features[feature]
            span = self.views[slot].columns[feature]
            used.append(Used(reference, slot, feature, span, not declared.is_sequence, declared.is_text))
        self.used: tuple[Used, ...] = tuple(used)
        self.view_versions = {v.view.name: v.view.version for v in self.views}
        self.max_age_s, self.stale_for_s = model.max_age_us * 1e-6, model.stale_for_us * 1e-6
        self.deadline_s = model.deadline_us * 1e-6
        self.keeps_state = model.max_age_us > 0 or model.stale_for_us > 0


class Plan:
    """Everything applied, compiled.

    ``partitions``: source name -> partition count. ``buckets``: how many states are in.
    A view with a source whose count is not known yet is left out, and named in ``waiting``.
    """

    def __init__(self, project: spec.Project, partitions: Mapping[str, int], buckets: int = 1) -> None:
        self.project = project
        self.partitions = dict(partitions)
        self.waiting: dict[str, str] = {
            view.name: ", ".join(absent)
            for view in project.views
            if (absent := [name for name in view.sources if name not in partitions])
        }
        self.views = {v.name: ViewPlan(project, v, partitions, buckets) for v in project.views if v.name not in self.waiting}
        self.models = {m.name: ModelPlan(project, m, self.views) for m in project.models if not self._waits(m)}
        self._versions: WeakValueDictionary[spec.Model, ModelPlan] = WeakValueDictionary()

    def of(self, model: spec.Model) -> ModelPlan:
        """Of the inputs that a version has (see ``models.manifest.as_added``); one for all that have the same.

        Raises ModelError while a view that they read waits.
        """
        declared = self.models.get(model.name)
        if declared is not None and declared.model is model:
            return declared
        if waits := self._waits(model):
            sources = ", ".join(dict.fromkeys(self.waiting[name] for name in sorted(waits)))
            raise ModelError(f"model {model.name}: a view that it reads waits for {sources}; run: featureflow apply")
        found = self._versions.get(model)
        if found is None:
            found = self._versions[model] = ModelPlan(self.project, model, self.views)
        return found

    def _waits(self, model: spec.Model) -> set[str]:
        """The views that it reads and that wait."""
        return {n.partition(":")[0] for i in model.inputs for n in spec.columns_of(i.expr)} & self.waiting.keys()
