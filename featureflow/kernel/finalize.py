"""From rows to feature values.

Which rows a window holds is one comparison: ``window start <= row start <= q``. A row of a level above the window's tile lies
before its frontier, so the same comparison leaves it out; that no frontier reaches into the window is checked first.
Rows are reduced once, into bands between the beginnings of nested windows; a window is the sum of the bands it covers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from featureflow.define.spec import Source, View
from featureflow.kernel.columns import FIRST, OLDEST, START, Layout, Table
from featureflow.kernel.decay import decayed
from featureflow.kernel.estimate import estimate
from featureflow.kernel.fold import carry
from featureflow.kernel.partial.base import LOWEST
from featureflow.kernel.partial.entries import Entries
from featureflow.kernel.plan import Fading, Plan, Session
from featureflow.kernel.session import session_begin
from featureflow.kernel.state import States, rolled_up_past
from featureflow.kernel.tile import LIFETIME_START_US

_ZERO = np.zeros(1, np.intp)

Int = NDArray[np.int64]
Float = NDArray[np.float64]
Index = NDArray[np.intp]
Texts = Mapping[int, NDArray[np.object_]]

NO_TEXTS: Texts = MappingProxyType({})


class Status(IntEnum):
    """What a feature value is."""

    PRESENT = 0  # computed from at least one event
    DEFAULT = 1  # no event counted: the declared default, or undefined
    EXPIRED = 2  # what it is made of is older than the view's ttl: as DEFAULT
    STALE = 3    # computed from state that is known to lag (set by the reader)
    MISSING = 4  # the state is lost or unreachable: as DEFAULT (set by the reader)

    @property
    def letter(self) -> str:
        """One of ``p d x s m``, as the prediction log writes it."""
        return "pdxsm"[self]


_PRESENT, _DEFAULT = np.int8(Status.PRESENT), np.int8(Status.DEFAULT)


@dataclass(frozen=True)
class Values:
    """n rows of one view's features, in ``view.features`` order.

    ``values`` (n, width) float64, a feature of ``size`` numbers taking that many columns, NaN where undefined; ``statuses`` (n, F)
    int8; ``event_times_us`` (n, F) int64, the newest event time among the rows in the window, ``clock.NO_TIME_US`` where none is.
    ``texts``: of each feature whose values are strings, by its place in ``view.features``, (n, size) objects, None where undefined; such
    a feature has no columns in ``values``.
    """

    values: Float
    statuses: NDArray[np.int8]
    event_times_us: Int
    texts: Texts = field(default_factory=lambda: NO_TEXTS)

    def take(self, rows: Index) -> Values:
        """These rows, in this order."""
        return Values(
            self.values[rows], self.statuses[rows], self.event_times_us[rows],
            {place: text[rows] for place, text in self.texts.items()} if self.texts else NO_TEXTS,
        )

    def copy(self) -> Values:
        """To be written to."""
        return self.take(np.arange(len(self.values)))

    @staticmethod
    def concat(parts: Sequence[Values]) -> Values:
        """At least one part; rows of one view."""
        return Values(
            np.concatenate([p.values for p in parts]),
            np.concatenate([p.statuses for p in parts]),
            np.concatenate([p.event_times_us for p in parts]),
            {place: np.concatenate([p.texts[place] for p in parts]) for place in parts[0].texts} if parts[0].texts else NO_TEXTS,
        )


class ViewKernel:
    """One view's layouts by source, and its features from states."""

    def __init__(self, view: View, sources: Mapping[str, Source]) -> None:
        self.view = view
        self.layouts: dict[str, Layout] = {name: Layout.of(view, sources[name]) for name in view.sources}
        self.width = view.width
        self.columns = tuple(span.start for span in view.spans)  # each feature's first column
        undefined = float("nan")
        self.defaults = np.array(
            [undefined if f.aggregation.default is None else f.aggregation.default for f in view.features for _ in range(f.numbers)],
            np.float64,
        )
        self._plans = {name: Plan.of(layout, view.features, self.columns) for name, layout in self.layouts.items()}
        plans = self._plans.values()
        self._steps = _steps(plans) if all(plan.is_steady for plan in plans) else None

    def finalize(self, states: Mapping[str, States], q_us: Int) -> Values:
        """The features of n entities, each at its own instant ``q_us`` (n,), from each source's ``states``.

        Raises StateError where an instant is behind what the state can still answer exactly.
        """
        n, features = len(q_us), len(self.view.features)
        texts = self.default_texts(n) if self.view.texts else NO_TEXTS
        out = Values(np.empty((n, self.width)), np.empty((n, features), np.int8), np.empty((n, features), np.int64), texts)
        out.values[:] = self.defaults
        if n:
            for name, plan in self._plans.items():
                _finalize(plan, states[name], q_us, out)
        return out

    def moment(self, q_us: int) -> tuple[int, ...] | None:
        """What of an instant the features hang on: at two instants that have the same, equal states have equal features, to the bit.

        None where some feature hangs on the instant itself (a time since, a decayed sum, a session, an expiry).
        """
        if self._steps is None:
            return None
        return tuple([(q_us - back) // step for back, step in self._steps])

    def nothing(self) -> Values:
        """No row."""
        features = len(self.view.features)
        return Values(np.empty((0, self.width)), np.empty((0, features), np.int8), np.empty((0, features), np.int64), self.default_texts(0))

    def default_texts(self, n: int) -> Texts:
        """(n, size) of each feature whose values are strings: its default, or None."""
        features = self.view.features
        return {i: np.full((n, features[i].size), features[i].aggregation.default, object) for i in self.view.texts}


def _finalize(plan: Plan, states: States, q_us: Int, out: Values) -> None:
    if not len(plan.features):
        return
    layout, n = plan.layout, len(q_us)
    if n > 1 and (q_us == q_us[0]).all():
        q_us = q_us[:1]  # one instant for all, as a serving turn has, needs no look-up per row
    begin = _begin(plan, q_us)
    _refuse_what_was_rolled_up(plan, states, begin)
    table = layout.table(states.rows)
    begins = [begin[chain] for chain in plan.chains]
    for session in plan.sessions:
        begins[session.chain] = _session(session, layout, table, states.entity, begins[session.chain][0], q_us, n)
    bands = [_bands(begin, table[:, START], states.entity, q_us) for begin in begins]
    totals = [_totals(layout, table, states.entity, band, len(begin), n) for begin, band in zip(begins, bands, strict=True)]
    added, maxima = totals[0] if len(totals) == 1 else (np.concatenate(blocks, axis=1) for blocks in zip(*totals, strict=True))
    carry(layout, added)
    picked = added.reshape(-1, n)[plan.pick_added]
    largest = maxima.reshape(-1, n)[plan.pick_maxima]
    fading = [(one, _fading(one, plan, table, states.entity, bands[one.chain], q_us, n)) for one in plan.fading]
    scalars = _scalars(plan, picked, largest, q_us, fading)

    present = picked[:len(plan.features)] > 0  # (features, n)
    event_times = largest[:len(plan.features)]
    status = np.where(present, _PRESENT, _DEFAULT)
    if plan.expiring is not None and layout.ttl_us is not None:
        expired = plan.expiring & present & (event_times < q_us - layout.ttl_us)
        status[expired] = Status.EXPIRED
        present &= ~expired
    out.statuses[:, plan.features] = status.T
    out.event_times_us[:, plan.features] = event_times.T
    defaults = out.values[0, plan.columns][:, np.newaxis]
    out.values[:, plan.columns] = np.where(present[:len(scalars)], scalars, defaults).T
    for kept in plan.entries:
        chain = plan.chains[kept.chain]
        inside = bands[kept.chain] >= chain.stop - chain.start - kept.window
        one_by_one = kept.partial.expires and plan.expiring is not None and bool(plan.expiring[kept.features[0].row, 0])
        since = q_us - layout.ttl_us if one_by_one and layout.ttl_us is not None else None
        entries = _best(layout, table[inside], states.entity[inside], kept.partial, n, since)
        for taken in kept.features:
            there = present[taken.row]
            if since is not None:
                expired = there & (entries[:, 0, 0] == LOWEST)
                out.statuses[expired, taken.feature] = Status.EXPIRED
                there = there & ~expired
            cells = out.texts[taken.feature] if taken.columns is None else out.values[:, taken.columns]
            cells[:] = np.where(there[:, np.newaxis], kept.partial.kept(entries, taken.payload), cells)
    if plan.estimates:
        for one, estimated in zip(plan.estimates, estimate(plan, states, q_us), strict=True):
            cells = out.texts[one.feature] if one.columns is None else out.values[:, one.columns]
            cells[:] = np.where(present[one.row][:, np.newaxis], estimated, cells)


def _steps(plans: Iterable[Plan]) -> tuple[tuple[int, int], ...]:
    """Each (back, step) once of which ``(q - back) // step`` says where a window begins, or in which of the finest tiles q is."""
    found: dict[tuple[int, int], None] = {}
    for plan in plans:
        for window, (back, step) in enumerate(zip(plan.back.ravel().tolist(), plan.step.ravel().tolist(), strict=True)):
            if window not in plan.lifetime:
                found[back % step, step] = None
        for layout in plan.layout.all:
            found[0, layout.finest] = None
    return tuple(found)


def _begin(plan: Plan, q_us: Int) -> Int:
    """(windows, n or 1) where each window begins at ``q_us`` (n,) or (1,)."""
    begin = (q_us - plan.back) // plan.step * plan.step
    if plan.shift is not None:
        begin += plan.shift
    if len(plan.lifetime):
        begin[plan.lifetime] = LIFETIME_START_US
    return begin


def _bands(begin: Int, start: Int, entity: Int, q_us: Int) -> Int:
    """(k,) in how many of a chain's windows each row is: in the last so many."""
    band = np.zeros(len(start), np.int64)
    for first in begin:
        band += start >= (first if len(first) == 1 else first[entity])
    future = start > (q_us if len(q_us) == 1 else q_us[entity])
    if future.any():
        band[future] = 0
    return band


def _session(session: Session, layout: Layout, table: Table, entity: Int, oldest: Int, q_us: Int, n: int) -> Int:
    """(1, n) where a session begins, which is at ``oldest`` at the earliest."""
    (t_min,) = layout.places(OLDEST)
    return session_begin(
        table[:, START], ~table[:, t_min], table[:, layout.t_max], entity, oldest, q_us, session.gap_us, n
    )[np.newaxis]


def _totals(layout: Layout, table: Table, entity: Int, band: Int, windows: int, n: int) -> tuple[Table, Table]:
    """A chain's (added columns, windows, n), not yet carried, and (maxima, windows, n)."""
    added = np.zeros(((windows + 1) * n, layout.t_max - FIRST), np.int64)
    maxima = np.full(((windows + 1) * n, layout.max_end - layout.t_max), LOWEST)
    if len(table):
        key = entity * (windows + 1) + band
        step = key[1:] - key[:-1]
        if len(step) and step.min() < 0:  # rows mostly come by start, and so by band
            order = np.argsort(key, kind="stable")
            table, entity, band, key = table.take(order, axis=0), entity[order], band[order], key[order]
            step = key[1:] - key[:-1]
        starts = np.concatenate((_ZERO, np.flatnonzero(step) + 1))
        slot = band[starts] * n + entity[starts]
        added[slot] = np.add.reduceat(table[:, FIRST:layout.t_max], starts, axis=0)
        maxima[slot] = np.maximum.reduceat(table[:, layout.t_max:layout.max_end], starts, axis=0)
    nested = added.reshape(windows + 1, n, -1)[:0:-1], maxima.reshape(windows + 1, n, -1)[:0:-1]
    if windows > 1:
        nested = np.add.accumulate(nested[0], axis=0), np.maximum.accumulate(nested[1], axis=0)
    return np.ascontiguousarray(nested[0].transpose(2, 0, 1)), np.ascontiguousarray(nested[1].transpose(2, 0, 1))


def _fading(one: Fading, plan: Plan, table: Table, entity: Int, band: Int, q_us: Int, n: int) -> Float:
    """(n,) a decayed number, of the rows that are in its window."""
    chain, places = plan.chains[one.chain], plan.layout.places(one.partial)
    inside = np.flatnonzero(band >= chain.stop - chain.start - one.window)
    limbs = np.stack([table[inside, place] for place in places])
    how = one.partial
    return decayed(limbs, table[inside, START], entity[inside], q_us, n, tile_us=how.tile_us, half_life_us=how.half_life_us)


def _scalars(plan: Plan, picked: Table, largest: Table, q_us: Int, fading: Sequence[tuple[Fading, Float]]) -> Float:
    """(scalars, n) what is read as it is, then the groups' values."""
    n = picked.shape[1]
    numbers = np.empty((plan.numbers, n))
    for read in plan.reads:
        block = (picked if read.added else largest)[read.rows]
        numbers[read.numbers] = read.partial.read(block.reshape(read.columns, -1, n))
    for one, values in fading:
        numbers[one.number] = values
    scalars = np.empty((len(plan.columns), n))
    scalars[:len(plan.read)] = numbers[plan.read]
    for group in plan.groups:
        arrays: list[Int | Float] = [numbers[index] for index in group.numbers]
        arrays += [picked[rows].reshape(columns, -1, n) for rows, columns in group.columns]
        for what in group.kind.given:
            arrays.append(q_us if what == "instants" else group.constants)
        scalars[group.scalars] = group.kind.finalize(*arrays)
    return scalars


def _best(layout: Layout, table: Table, entity: Int, partial: Entries, n: int, since_us: Int | None) -> Int:
    """(n, size, width) the best entries, of events since ``since_us`` (n,) or (1,) where that is given."""
    places = layout.places(partial)
    entries = table[:, places[0]:places[-1] + 1].reshape(-1, partial.width)
    of = np.repeat(entity, partial.size)
    if since_us is not None:
        alive = partial.times(entries) >= (since_us if len(since_us) == 1 else since_us[of])
        of, entries = of[alive], entries[alive]
    return partial.best(of, entries, n).reshape(n, partial.size, partial.width)


def _refuse_what_was_rolled_up(plan: Plan, states: States, begin: Int) -> None:
    blob = states.blob_entity
    if not len(blob):
        return
    # A window of the finest tile begins before q and not before any frontier, so that no instant is before one either.
    horizons = states.horizons[:, np.newaxis]
    edges = np.concatenate((states.frontiers, horizons), axis=1)  # nothing is above the largest tile
    wrong = (np.maximum(edges[:, plan.above], horizons) > (begin if begin.shape[1] == 1 else begin[:, blob]).T).any(axis=1)
    if wrong.any():
        raise rolled_up_past(plan.layout, blob[wrong])
