"""State values -> features, computed once for as long as they stay the same.

Features hang on the state and on the instant, and on the instant mostly by the tiles that it is in (``ViewKernel.moment``): until the
next tile begins, an entity whose state's bytes are what they were has the features that it had, to the bit. What was computed is kept
beside those bytes, and given again where the bytes that were just read are equal to them. So nothing here is ever old.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import structlog
from numpy.typing import NDArray

from featureflow.errors import StateError
from featureflow.kernel.finalize import Values
from featureflow.kernel.state import States, parse
from featureflow.reading.plan import SourcePlan, ViewPlan

Blobs = Sequence[bytes | None]
Ids = Sequence[str | int | None]
ENTRY_BYTES = 300  # of the interpreter for each entity remembered
log = structlog.get_logger("featureflow.reading")


@dataclass(slots=True)
class Computed:
    """The features of n entities. ``corrupt``, ``unanswerable``: place -> what is wrong with its state, or why it has no exact answer."""

    values: Values
    corrupt: dict[int, str] = field(default_factory=dict)
    unanswerable: dict[int, str] = field(default_factory=dict)


def compute(plan: ViewPlan, ids: Ids, blobs: Sequence[Blobs], q_us: int) -> Computed:
    """``blobs``: of each id, source by source. Raises only where the view cannot be computed for any entity."""
    done = Computed(plan.kernel.nothing())
    try:
        states = {source.name: _parsed(source, own, done.corrupt) for source, own in by_source(plan, blobs)}
        done.values = plan.kernel.finalize(states, np.full(len(ids), q_us, np.int64))
    except Exception:  # damage that the state's form does not show can break any step
        done.values = _one_by_one(plan, ids, blobs, q_us, done)
    return done


def by_source(plan: ViewPlan, blobs: Sequence[Blobs]) -> list[tuple[SourcePlan, Sequence[Blobs]]]:
    """Each source with the values that are of it."""
    if len(plan.sources) == 1:
        return [(plan.sources[0], blobs)]
    found: list[tuple[SourcePlan, Sequence[Blobs]]] = []
    at = 0
    for source in plan.sources:
        found.append((source, [each[at : at + source.stride] for each in blobs]))
        at += source.stride
    return found


class Finalized:
    """What one scorer has computed, in at most ``most_bytes`` bytes; all of it is forgotten where that is too little."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self._bytes = most_bytes, 0
        self._views: dict[ViewPlan, _View] = {}
        self.found = self.computed = 0  # entities, since the beginning

    @property
    def bytes(self) -> int:
        """What is remembered takes about so many."""
        return self._bytes

    def compute(self, plan: ViewPlan, ids: Ids, blobs: Sequence[Blobs], q_us: int) -> Computed:
        """As the function of that name."""
        moment = None if plan.view.texts else plan.kernel.moment(q_us)
        if moment is None:
            self.computed += len(ids)
            return compute(plan, ids, blobs, q_us)
        if self._bytes > self._most_bytes:
            self.forget()
        view = self._views.get(plan)
        if view is None:
            view = self._views[plan] = _View(plan)
        rows, absent = view.look(moment, ids, blobs)
        self.found += len(ids) - len(absent)
        self.computed += len(absent)
        if not absent:
            return Computed(view.rows(rows))
        done = compute(plan, [ids[i] for i in absent], [blobs[i] for i in absent], q_us)
        wrong = done.corrupt.keys() | done.unanswerable.keys()
        for k, i in enumerate(absent):
            rows[i], more = view.keep(ids[i], None if k in wrong else blobs[i])
            self._bytes += more
        view.write([rows[i] for i in absent], done.values)
        return Computed(
            view.rows(rows),
            {absent[k]: why for k, why in done.corrupt.items()},
            {absent[k]: why for k, why in done.unanswerable.items()},
        )

    def forget(self) -> None:
        """All of it (the definitions changed, or it is too much)."""
        self._views.clear()
        self._bytes = 0


class _View:
    """The entities of one view: each one's bytes, and its row in the columns of the features."""

    def __init__(self, plan: ViewPlan) -> None:
        self._entries: dict[str | int | None, tuple[int, Blobs | None, int]] = {}  # when (of ``_now``), bytes, row
        self._moment: tuple[int, ...] = ()
        self._now = 0
        self._row_bytes = 8 * len(plan.default_row) + 9 * len(plan.references) + ENTRY_BYTES
        self._columns = plan.kernel.nothing()

    def look(self, moment: tuple[int, ...], ids: Ids, blobs: Sequence[Blobs]) -> tuple[list[int], list[int]]:
        """Each id's row, and the places of those that have none that is still true."""
        if moment != self._moment:
            self._moment = moment
            self._now += 1
        now, entry_of = self._now, self._entries.get
        rows: list[int] = []
        absent: list[int] = []
        for i, entity_id in enumerate(ids):
            entry = entry_of(entity_id)
            if entry is not None and entry[0] == now and entry[1] == blobs[i]:
                rows.append(entry[2])
            else:
                rows.append(-1)
                absent.append(i)
        return rows, absent

    def keep(self, entity_id: str | int | None, blobs: Blobs | None) -> tuple[int, int]:
        """The entity's row from now on, to be written, and how many bytes more that takes. ``blobs`` None: nothing to be found again."""
        entry = self._entries.get(entity_id)
        row = len(self._entries) if entry is None else entry[2]
        self._entries[entity_id] = (self._now, blobs, row)
        return row, _size(blobs) + self._row_bytes if entry is None else _size(blobs) - _size(entry[1])

    def write(self, rows: list[int], values: Values) -> None:
        kept = self._columns
        if (size := len(self._entries)) > len(kept.values):
            kept = self._columns = _grown(kept, max(64, size + size // 2))
        kept.values[rows] = values.values
        kept.statuses[rows] = values.statuses
        kept.event_times_us[rows] = values.event_times_us

    def rows(self, rows: list[int]) -> Values:
        return self._columns.take(np.array(rows, np.intp))


def _grown(kept: Values, size: int) -> Values:
    def longer(column: NDArray[np.generic]) -> NDArray[np.generic]:
        found = np.zeros((size, column.shape[1]), column.dtype)
        found[: len(column)] = column
        return found

    return Values(longer(kept.values), longer(kept.statuses), longer(kept.event_times_us))  # type: ignore[arg-type]  # as they were


def _size(blobs: Blobs | None) -> int:
    return 0 if blobs is None else sum(len(blob) for blob in blobs if blob)


def _parsed(source: SourcePlan, entities: Sequence[Blobs], corrupt: dict[int, str]) -> States:
    """All states at once; where one of them is damaged, that one alone is set aside and named in ``corrupt``."""
    try:
        return parse(source.layout, entities)
    except StateError:
        nothing: Blobs = (None,) * source.stride
        good: list[Blobs] = []
        for place, blobs in enumerate(entities):
            try:
                parse(source.layout, [blobs])
                good.append(blobs)
            except StateError as error:
                corrupt[place] = str(error)
                good.append(nothing)
        return parse(source.layout, good)


def _one_by_one(plan: ViewPlan, ids: Ids, blobs: Sequence[Blobs], q_us: int, done: Computed) -> Values:
    """Some entity cannot be finalized at ``q_us``: find which, name it in ``done``, and finalize the others."""
    at = np.full(1, q_us, np.int64)
    empty = {s.name: parse(s.layout, [[None] * s.stride]) for s in plan.sources}
    found: list[Values] = []
    for place in range(len(ids)):
        if place in done.corrupt:
            found.append(plan.kernel.finalize(empty, at))
            continue
        try:
            alone = {s.name: parse(s.layout, own) for s, own in by_source(plan, [blobs[place]])}
            found.append(plan.kernel.finalize(alone, at))
        except StateError as error:
            done.unanswerable[place] = str(error)
            found.append(plan.kernel.finalize(empty, at))
        except Exception as error:
            found.append(plan.kernel.finalize(empty, at))  # raises where not the entity's state is at fault
            done.corrupt[place] = repr(error)
            log.error("state_cannot_be_computed", view=plan.view.id, entity=ids[place], error=repr(error))
    return Values.concat(found)
