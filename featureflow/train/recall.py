"""A view's values from history: at the instants, and counting the events up to the offsets, that somebody names.

That is all that a value depends on. So what was served is computed again, and what the state has rolled up past an instant is still
answered, by the kernel that serves, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featureflow.define import spec
from featureflow.errors import HistoryError
from featureflow.kernel.events import Events
from featureflow.kernel.finalize import Values, ViewKernel
from featureflow.store.history.protocol import Extent, HistoryStore
from featureflow.store.history.read_again import check_read_again
from featureflow.store.ledger import Ledger
from featureflow.train.gather import Entities, Wanted, gather
from featureflow.train.point_in_time import Part, join
from featureflow.train.prediction import folded_by, view_sources


@dataclass(frozen=True)
class Question:
    """One entity at one instant. ``applied``: source -> partition -> the offset up to which events count; none of a partition that is
    absent. ``who`` asks, for errors: ``prediction 'p1' was made``."""

    entity_id: str | int | None
    instant_us: int
    applied: Mapping[str, Mapping[int, int]]
    who: str


def recall(
    history: HistoryStore, project: spec.Project, view: spec.View, questions: Sequence[Question], *, cut: bool = False
) -> Values:
    """The view's values for each question, of one reading of history. ``cut``: of a past instant, see ``join``.

    Raises HistoryError where history has not come as far as an applied offset, or does not reach back to where the view was begun, and
    UnavailableError where it has yet to read some of that again, as the events are defined now.
    """
    sources = view_sources(history, project, view)
    kernel = ViewKernel(view, sources)
    ids = np.empty(len(questions), dtype=object)
    ids[:] = [question.entity_id for question in questions]
    entities = Entities.of(ids)
    instants = np.array([question.instant_us for question in questions], np.int64)
    by = folded_by(history, project, [view])
    current = {known.id for known in project.views}
    began = {(position.source, position.partition_id): position.beginning for position in Ledger(history).positions(view.id)}
    parts: list[Part] = []
    for name in view.sources:
        wanted = Wanted.of(kernel.layouts[name], entities, instants)
        extents = history.extents(name)
        for partition in sorted({p for question in questions for p in question.applied.get(name, {})}):
            applied = np.array([question.applied.get(name, {}).get(partition, 0) for question in questions], np.int64)
            extent = extents.get(partition, Extent(0, 0))
            begin = began.get((name, partition), extent.first)
            _refuse(questions, applied, extent, begin, f"{name}/{partition}")
            if view.id in current:
                check_read_again(history, sources[name], partition, int(applied.max()))
            gathered = gather(
                history, sources[name], [wanted], columns=(), seen=_offsets, partition=partition,
                from_offset=begin, to_offset=int(applied.max()), by=by[view.id, name], progress=lambda rows: None,
            )
            parts.append(Part(name, gathered, applied))
    return join(kernel, entities, instants, parts, cut=cut)


def _offsets(events: Events) -> NDArray[np.int64]:
    """An event is seen by those that were applied beyond its offset."""
    return events.offsets + 1


def _refuse(questions: Sequence[Question], applied: NDArray[np.int64], extent: Extent, begin: int, where: str) -> None:
    ahead = np.flatnonzero(applied > extent.next)
    if len(ahead):
        raise HistoryError(
            f"history of {where} has come to {extent.next}, and {questions[int(ahead[0])].who} at {applied[ahead[0]]}: "
            "let the history writer catch up"
        )
    if begin < extent.first and applied.max() > begin:
        raise HistoryError(
            f"history of {where} begins at {extent.first}, but the view was folded from {begin}: those events "
            "cannot be recomputed"
        )
