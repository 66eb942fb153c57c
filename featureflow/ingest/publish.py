"""What a view publishes: with each commit, the values of the entities that it changes, as they are once it is applied.

They are of one instant, the running maximum of event times up to the commit: a function of the log alone, so that a replay that makes the
same commits publishes the same bytes, and none that the entity's state cannot answer exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from featureflow.define.spec import Source, View
from featureflow.errors import StateError
from featureflow.ingest.cuts import weight
from featureflow.ingest.order import Index
from featureflow.ingest.slab import Slab
from featureflow.ingest.slots import Id
from featureflow.kernel.finalize import ViewKernel
from featureflow.store.keys import Keys
from featureflow.store.online import published
from featureflow.store.online.writes import ANY, HEAD, PLACE, WHOLE, Writes


class Publisher:
    """Of one view, whose only source this is."""

    def __init__(self, view: View, source: Source, keys: Keys, slabs: Sequence[Slab]) -> None:
        """``slabs``: of the layouts of the view's rows and of its cells, in their order."""
        self._view, self._source, self._names = view, source.name, keys
        self._slab, *self._cells = slabs
        self.weight = weight(published.about_bytes(view))          # as how many rows a value counts in a commit
        self._kernel = ViewKernel(view, {source.name: source})

    def writes(self, partition: int, instants_us: Sequence[int]) -> Iterator[Writes]:
        """For each commit of the slabs' last fold: a whole value for each entity that it changes, at the commit's instant."""
        for commit, q_us in enumerate(instants_us):
            slots = self._slab.touched(commit)
            yield self._of(partition, commit, slots, q_us) if len(slots) else Writes()

    def _of(self, partition: int, commit: int, slots: Index, q_us: int) -> Writes:
        ids, values = self._slab.entity_ids(slots), self._values(partition, commit, slots, q_us)
        heads = np.zeros(len(ids), HEAD)
        heads["expected"], heads["patches"], heads["ttl_ms"] = ANY, WHOLE, self._slab.life_ms
        places = np.zeros(len(ids), PLACE)
        places["size"] = list(map(len, values))
        return Writes(tuple(map(self._key, ids)), heads.tobytes(), b"", places.tobytes(), b"".join(values))

    def _values(self, partition: int, commit: int, slots: Index, q_us: int) -> Sequence[bytes]:
        rows = self._slab.states(commit, slots)
        if self._cells:
            ids = self._slab.entity_ids(slots)
            rows = replace(rows, cells=tuple(slab.states(commit, slab.find(partition, ids)) for slab in self._cells))
        try:
            return published.encode(self._view, self._kernel.finalize({self._source: rows}, np.full(len(slots), q_us)), q_us)
        except StateError:
            if len(slots) == 1:            # rolled up beyond the instant before its values were published: b"" takes away what is there
                return [b""]
        return [value for slot in slots for value in self._values(partition, commit, slot[np.newaxis], q_us)]

    def _key(self, entity_id: Id) -> bytes:
        return self._names.published(self._view.entity, entity_id, self._view.name)
