"""From rows to feature values.

Which rows a window holds is one comparison: ``window start <= row start <= q``. A row of a level above the window's tile lies before its
frontier, so the same comparison leaves it out; that the frontier does not reach into the window is checked, and refused.
Rows are reduced once, into bands between the beginnings of the windows; a window is the sum of the bands it covers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from featureflow.define.spec import Feature, Source, View
from featureflow.errors import StateError
from featureflow.kernel.aggregation import Aggregation, aggregation
from featureflow.kernel.columns import FIRST, START, Layout, Table
from featureflow.kernel.fold import carry
from featureflow.kernel.partial import ENTRY, LOWEST, LastN, Partial, newest
from featureflow.kernel.state import States
from featureflow.kernel.tile import LIFETIME_START_US, tile_for

NO_TIME_US = LOWEST  # the event time of a feature without an event

Int = NDArray[np.int64]
Float = NDArray[np.float64]


class Status(IntEnum):
    """What a feature value is."""

    PRESENT = 0  # computed from at least one event
    DEFAULT = 1  # no event counted: the declared default, or undefined
    EXPIRED = 2  # its newest event is older than the view's ttl: as DEFAULT
    STALE = 3    # computed from state that is known to lag (set by the reader)
    MISSING = 4  # the state is lost or unreachable: as DEFAULT (set by the reader)

    @property
    def letter(self) -> str:
        return "pdxsm"[self]


@dataclass(frozen=True)
class Values:
    """n rows of one view's features, in ``view.features`` order.

    ``values`` (n, width) float64, a feature of ``size`` taking that many columns, NaN where undefined; ``statuses`` (n, F) int8;
    ``event_times_us`` (n, F) int64, the newest event time among the rows in the window, ``NO_TIME_US`` where there are none.
    """

    values: Float
    statuses: NDArray[np.int8]
    event_times_us: Int


class ViewKernel:
    """One view's layouts, and its features from states."""

    def __init__(self, view: View, sources: Mapping[str, Source]) -> None:
        self.view = view
        self.layouts: dict[str, Layout] = {name: Layout.of(view, sources[name]) for name in view.sources}
        self.width = sum(feature.size for feature in view.features)
        at, offsets = 0, []
        for feature in view.features:
            offsets.append(at)
            at += feature.size
        self.columns: tuple[int, ...] = tuple(offsets)  # where each feature's first column is
        self._defaults = np.array([_default(feature) for feature in view.features for _ in range(feature.size)], np.float64)
        self._plans = {
            name: _Plan(layout, [(i, f) for i, f in enumerate(view.features) if f.aggregation.source == name], offsets)
            for name, layout in self.layouts.items()
        }

    def finalize(self, states: Mapping[str, States], q_us: Int) -> Values:
        """The features of n entities, each at its own instant ``q_us`` (n,).

        ``states`` holds each source's. Raises StateError where an instant is behind what the state can still answer exactly.
        """
        n, features = len(q_us), len(self.view.features)
        out = Values(
            np.repeat(self._defaults[np.newaxis], n, axis=0),
            np.empty((n, features), np.int8),
            np.empty((n, features), np.int64),
        )
        for name, plan in self._plans.items():
            plan.finalize(states[name], q_us, out)
        return out


def _default(feature: Feature) -> float:
    declared = feature.aggregation.default
    return aggregation(feature.aggregation.op).empty if declared is None else declared


class _Group:
    """The features of one aggregation: which columns of which windows they take."""

    def __init__(self, kind: type[Aggregation], features: list[tuple[int, Feature]], layout: Layout, at: int) -> None:
        self.kind = kind
        self.scalars = slice(at, at + len(features))
        self.windows = np.array([layout.windows.index(f.window) for _, f in features])
        self.parts: list[tuple[type[Partial], NDArray[np.intp]]] = []
        for members in zip(*(kind.partials(f.aggregation) for _, f in features), strict=True):
            self.parts.append((type(members[0]), np.array([layout.positions[p] for p in members]).T))


class _Plan:
    """Everything about a layout's finalize that does not depend on the data."""

    def __init__(self, layout: Layout, features: list[tuple[int, Feature]], columns: list[int]) -> None:
        self.layout = layout
        windows = layout.windows
        self.back = np.array([w.length_us if w.kind == "sliding" else 0 for w in windows], np.int64)
        self.step = np.array([w.length_us if w.kind == "tumbling" else tile_for(w) for w in windows], np.int64)
        self.lifetime = np.array([w.kind == "lifetime" for w in windows])
        self.above = np.array([layout.levels.index(tile_for(w)) for w in windows])  # in frontiers: the next larger level
        groups: dict[type[Aggregation], list[tuple[int, Feature]]] = {}
        self.newest: list[tuple[int, Feature, LastN]] = []
        for i, feature in features:
            kind = aggregation(feature.aggregation.op)
            last = [p for p in kind.partials(feature.aggregation) if isinstance(p, LastN)]
            if last:
                self.newest.append((i, feature, last[0]))
            else:
                groups.setdefault(kind, []).append((i, feature))
        self.groups: list[_Group] = []
        ordered: list[tuple[int, Feature]] = []
        for kind, members in groups.items():
            self.groups.append(_Group(kind, members, layout, len(ordered)))
            ordered += members
        self.scalar_columns = np.array([columns[i] for i, _ in ordered], np.intp)
        self.scalars = len(ordered)
        ordered += [(i, feature) for i, feature, _ in self.newest]
        self.features = np.array([i for i, _ in ordered], np.intp)
        self.windows = np.array([windows.index(f.window) for _, f in ordered], np.intp)
        self.counts = np.array(
            [layout.positions[aggregation(f.aggregation.op).partials(f.aggregation)[0]][0] for _, f in ordered], np.intp
        )
        self.expiring = np.array([f.window.kind == "lifetime" and layout.ttl_us is not None for _, f in ordered])
        self.columns = columns

    def finalize(self, states: States, q_us: Int, out: Values) -> None:
        if not len(self.features):
            return
        layout, n = self.layout, len(q_us)
        begin = (q_us[:, np.newaxis] - self.back) // self.step * self.step  # (n, windows)
        begin[:, self.lifetime] = LIFETIME_START_US
        self._refuse_what_was_rolled_up(states, q_us, begin)
        table = layout.table(states.rows)
        ranked = np.argsort(begin, axis=1, kind="stable")
        ascending = np.take_along_axis(begin, ranked, axis=1)
        band = self._bands(table[:, START], states.entity, ascending, q_us)
        total = self._totals(table, states.entity, band, n, ranked)  # (width, windows, n)
        scalars = np.empty((self.scalars, n))
        for group in self.groups:
            places = [total[positions, group.windows] for _, positions in group.parts]  # (columns, f, n) each
            arrays = places if group.kind.takes == "columns" else [
                part.read(columns) for (part, _), columns in zip(group.parts, places, strict=True)
            ]
            scalars[group.scalars] = group.kind.finalize(*arrays)
        present = total[self.counts, self.windows] > 0  # (features, n)
        event_times = total[layout.t_max, self.windows]
        status = np.where(present, Status.PRESENT, Status.DEFAULT).astype(np.int8)
        if layout.ttl_us is not None:
            expired = self.expiring[:, np.newaxis] & present & (event_times < q_us - layout.ttl_us)
            status[expired] = Status.EXPIRED
            present &= ~expired
        out.statuses[:, self.features] = status.T
        out.event_times_us[:, self.features] = event_times.T
        cells = present[:self.scalars].T
        out.values[:, self.scalar_columns] = np.where(cells, scalars.T, out.values[:, self.scalar_columns])
        for k, (i, feature, partial) in enumerate(self.newest):
            values = self._newest(table, states.entity, band, ranked, partial, int(self.windows[self.scalars + k]), n)
            block = slice(self.columns[i], self.columns[i] + feature.size)
            out.values[:, block] = np.where(present[self.scalars + k][:, np.newaxis], values, out.values[:, block])

    def _bands(self, start: Int, entity: Int, ascending: Int, q_us: Int) -> Int:
        """(k,) of how many windows a row is in; those are the first of its entity's windows in ``ascending`` order."""
        band = np.zeros(len(start), np.int64)
        for begin in ascending.T:
            band += start >= begin[entity]
        band[start > q_us[entity]] = 0
        return band

    def _totals(self, table: Table, entity: Int, band: Int, n: int, ranked: NDArray[np.intp]) -> Table:
        layout, windows = self.layout, len(self.layout.windows)
        dense = np.zeros((layout.max_end, windows + 1, n), np.int64)
        dense[layout.t_max:] = LOWEST
        if len(table):
            key = entity * (windows + 1) + band
            if (key[1:] < key[:-1]).any():
                order = np.argsort(key, kind="stable")
                table, key = table[order], key[order]
            starts = np.concatenate(([0], np.flatnonzero(key[1:] != key[:-1]) + 1))
            at_entity, at_band = np.divmod(key[starts], windows + 1)
            dense[FIRST:layout.t_max, at_band, at_entity] = np.add.reduceat(table[:, FIRST:layout.t_max], starts, axis=0).T
            dense[layout.t_max:, at_band, at_entity] = np.maximum.reduceat(table[:, layout.t_max:layout.max_end], starts, axis=0).T
        for rank in range(windows - 1, 0, -1):  # a row in r windows is in the r that begin first
            dense[FIRST:layout.t_max, rank] += dense[FIRST:layout.t_max, rank + 1]
            np.maximum(dense[layout.t_max:, rank], dense[layout.t_max:, rank + 1], out=dense[layout.t_max:, rank])
        carry(layout, dense)
        total = np.empty((layout.max_end, windows, n), np.int64)
        total[:, ranked.T, np.arange(n)] = dense[:, 1:]
        return total

    def _newest(
        self, table: Table, entity: Int, band: Int, ranked: NDArray[np.intp], partial: LastN, window: int, n: int
    ) -> Float:
        rank = np.argmax(ranked == window, axis=1)  # (n,) the window's place among its entity's
        inside = band > rank[entity]
        places = self.layout.positions[partial]
        entries = table[inside, places[0]:places[-1] + 1].reshape(-1, ENTRY)
        return LastN.read(newest(np.repeat(entity[inside], partial.size), entries, n, partial.size).T).T

    def _refuse_what_was_rolled_up(self, states: States, q_us: Int, begin: Int) -> None:
        if not len(states.blob_entity):
            return
        edges = np.concatenate((states.frontiers, np.full((len(states.horizons), 1), LOWEST)), axis=1)
        needed = np.maximum(edges[:, self.above], states.horizons[:, np.newaxis])
        wrong = (begin[states.blob_entity] < needed).any(axis=1) | (q_us[states.blob_entity] < edges.max(axis=1))
        if wrong.any():
            entities = sorted(set(states.blob_entity[wrong].tolist()))
            raise StateError(
                f"{self.layout.view_id} from {self.layout.source} was rolled up past the instant asked for, for the entities at {entities}. "
                "Ask for a later instant, or have it answered from history"
            )
