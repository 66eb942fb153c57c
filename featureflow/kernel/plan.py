"""Everything about one layout's finalize that does not depend on the data, worked out once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from featureflow.define.spec import Aggregation as Aggregated
from featureflow.define.spec import Feature, Payload, Window
from featureflow.kernel.aggregation.base import Aggregation
from featureflow.kernel.aggregation.entries import Kept
from featureflow.kernel.aggregation.table import aggregation
from featureflow.kernel.columns import FIRST, Layout
from featureflow.kernel.partial.base import Partial
from featureflow.kernel.partial.decayed import Decayed
from featureflow.kernel.partial.entries import Entries
from featureflow.kernel.partial.sketch import Sketch
from featureflow.kernel.tile import LADDER_US, steps, tile_for

Index = NDArray[np.intp]


@dataclass(frozen=True)
class Read:
    """Picked columns that are read as numbers in one call: ``rows`` of the picked, of ``columns`` columns each."""

    partial: type[Partial]
    added: bool                            # picked from what is added, else from the maxima
    rows: slice
    columns: int
    numbers: slice


@dataclass(frozen=True)
class Group:
    """The features of one aggregation that have one value each: ``numbers`` or (rows of the picked, columns) per partial."""

    kind: type[Aggregation]
    scalars: slice
    numbers: tuple[Index, ...]
    columns: tuple[tuple[slice, int], ...]
    constants: NDArray[np.float64]         # (scalars, 1) where the aggregation is given one, else empty


@dataclass(frozen=True)
class FromEntries:
    """Features that are read from the best entries of one window: which window of which chain, and what each takes of an entry."""

    partial: Entries
    chain: int
    window: int                            # in the chain
    features: tuple[Taken, ...]


@dataclass(frozen=True)
class Taken:
    """What one feature takes of an entry."""

    row: int                               # the feature's place in ``Plan.features``
    feature: int                           # ... and in the view's
    payload: int                           # of the entry
    columns: slice | None                  # where its numbers go; None: they are strings


@dataclass(frozen=True)
class Fading:
    """A number that is not a sum over a window's rows: one of a decayed partial, over a window of a chain."""

    partial: Decayed
    chain: int
    window: int                            # in the chain
    number: int


@dataclass(frozen=True)
class Session:
    """A session window, which is a chain of its own: it begins where the events say."""

    chain: int
    gap_us: int


@dataclass(frozen=True)
class Estimate:
    """A feature that a sketch estimates: which sketch of which of the layout's cells, over which window, and where its values go."""

    row: int                               # in the plan's features
    feature: int                           # its place in the view's
    asked: Aggregated
    sketch: Sketch
    layout: int
    number: int                            # of the sketch, in that layout
    window: Window
    columns: slice | None                  # None: its values are strings


@dataclass(frozen=True)
class Plan:
    """``windows`` are those of the layout in chains, each from its narrowest to its widest: whatever the instant, a window
    of a chain lies within the next. ``features`` are places in the view's features: those whose number is their value, those
    of the groups, then those of entries, then the estimates."""

    layout: Layout
    windows: tuple[Window, ...]
    chains: tuple[slice, ...]
    sessions: tuple[Session, ...]
    back: Index                            # (windows, 1): a window begins at (q - back) // step * step + shift
    step: Index
    shift: Index | None                    # None: all are 0
    lifetime: Index                        # the windows that begin at the beginning
    above: Index                           # (windows,) where a header's frontiers have that of the next larger tile
    features: Index
    columns: Index                         # (scalars,) where the groups' values go
    pick_added: Index                      # rows of (added columns x windows): each feature's count first
    pick_maxima: Index                     # rows of (maxima x windows): each feature's t_max first
    reads: tuple[Read, ...]
    fading: tuple[Fading, ...]
    numbers: int
    read: Index                            # the numbers that are a feature's value as they are
    groups: tuple[Group, ...]
    entries: tuple[FromEntries, ...]
    estimates: tuple[Estimate, ...]
    expiring: NDArray[np.bool_] | None     # (features, 1) which the view's ttl expires; None: none

    @property
    def is_steady(self) -> bool:
        """Whether values change only where a window begins anew or a tile of the finest begins: none hangs on the instant itself."""
        timed = self.layout.finest < LADDER_US[0] or any("instants" in group.kind.given for group in self.groups)
        return not (timed or self.sessions or self.fading or self.expiring is not None)

    @staticmethod
    def of(layout: Layout, features: Sequence[Feature], columns: Sequence[int]) -> Plan:
        """``features`` are the view's, ``columns`` where each one's values begin in the answer."""
        return _Planner(layout, features, columns).plan()


class _Planner:
    def __init__(self, layout: Layout, features: Sequence[Feature], columns: Sequence[int]) -> None:
        self.layout, self.columns = layout, columns
        chains = _chains(layout.windows)
        self.windows = [window for chain in chains for window in chain]
        ends = np.cumsum([0, *map(len, chains)]).tolist()
        self.chains = [slice(begin, end) for begin, end in pairwise(ends)]
        grouped: dict[type[Aggregation], list[tuple[int, Feature]]] = {}
        for i, feature in enumerate(features):
            if feature.aggregation.source == layout.source:
                grouped.setdefault(aggregation(feature.aggregation.op), []).append((i, feature))
        self.fading: list[Fading] = []
        self.kept = [f for kind, members in grouped.items() if issubclass(kind, Kept) for f in members]
        self.sketched = [f for kind, members in grouped.items() if _is_sketched(kind) for f in members]
        scalar = {kind: members for kind, members in grouped.items() if not (issubclass(kind, Kept) or _is_sketched(kind))}
        self.grouped = {kind: members for kind, members in scalar.items() if _is_computed(kind)}
        self.read = [f for kind, members in scalar.items() if not _is_computed(kind) for f in members]
        self.scalars = [*self.read, *(f for members in self.grouped.values() for f in members)]
        ordered = [*self.scalars, *self.kept, *self.sketched]
        self.features = [i for i, _ in ordered]
        counts = [aggregation(f.aggregation.op).partials(f.aggregation)[0] for _, f in ordered]
        self.added = [self._row(layout.places(p)[0], f) for p, (_, f) in zip(counts, ordered, strict=True)]
        self.maxima = [self._row(layout.t_max, f) for _, f in ordered]
        self.expires = [layout.ttl_us is not None and f.window.kind == "lifetime" for _, f in ordered]

    def plan(self) -> Plan:
        layout, windows = self.layout, self.windows
        reads, at = self._reads()
        starts = np.array([(0, 1, 0) if w.kind == "lifetime" else steps(w) for w in windows], np.int64).reshape(-1, 3)
        return Plan(
            layout=layout,
            windows=tuple(windows),
            chains=tuple(self.chains),
            sessions=tuple(Session(i, windows[c.start].gap_us) for i, c in enumerate(self.chains) if windows[c.start].kind == "session"),
            back=starts[:, 0:1],
            step=starts[:, 1:2],
            shift=starts[:, 2:3] if starts[:, 2].any() else None,
            lifetime=np.flatnonzero([w.kind == "lifetime" for w in windows]),
            above=np.array([layout.levels.index(tile_for(w)) for w in windows]),
            features=np.array(self.features, np.intp),
            columns=np.array([self.columns[i] for i, _ in self.scalars], np.intp),
            reads=tuple(reads),
            fading=tuple(self.fading),
            numbers=len(at),
            read=np.array([at[self._read_of(f)] for _, f in self.read], np.intp),
            groups=tuple(self._groups(at)),
            entries=tuple(self._entries()),
            estimates=tuple(self._estimates()),
            pick_added=np.array(self.added, np.intp),
            pick_maxima=np.array(self.maxima, np.intp),
            expiring=np.array([self.expires]).T if any(self.expires) else None,
        )

    def _row(self, position: int, feature: Feature) -> int:
        """A table position's row, for a feature's window, among (columns x windows) of its block."""
        begin = FIRST if position < self.layout.t_max else self.layout.t_max
        return (position - begin) * len(self.windows) + self.windows.index(feature.window)

    def _pick(self, partials: Sequence[Partial], features: Sequence[Feature]) -> tuple[bool, slice]:
        """Pick the columns of one kind of partial for these features, column by column."""
        places = [self.layout.places(partial) for partial in partials]
        added = places[0][0] < self.layout.t_max
        picked = self.added if added else self.maxima
        begin = len(picked)
        picked += [self._row(place[k], f) for k in range(len(places[0])) for place, f in zip(places, features, strict=True)]
        return added, slice(begin, len(picked))

    def _reads(self) -> tuple[list[Read], dict[tuple[tuple[int, ...], Window], int]]:
        """What is read as numbers, each (partial, window) once, and where its numbers will be."""
        wanted: dict[type[Partial], dict[tuple[tuple[int, ...], Window], tuple[Partial, Feature]]] = {}
        for _, feature in self.scalars:
            kind = aggregation(feature.aggregation.op)
            needed = kind.partials(feature.aggregation) if kind.takes == "numbers" else ()
            for partial in needed if _is_computed(kind) else needed[-1:]:
                key = (self.layout.places(partial), feature.window)
                wanted.setdefault(type(partial), {}).setdefault(key, (partial, feature))
        reads: list[Read] = []
        at: dict[tuple[tuple[int, ...], Window], int] = {}
        for partial_type, found in wanted.items():
            if issubclass(partial_type, Decayed):
                for key, (partial, feature) in found.items():
                    assert isinstance(partial, Decayed)
                    self.fading.append(Fading(partial, *self._place(feature.window), number=len(at)))
                    at[key] = len(at)
                continue
            added, rows = self._pick([p for p, _ in found.values()], [f for _, f in found.values()])
            numbers = slice(len(at), len(at) + len(found))
            reads.append(Read(partial_type, added, rows, (rows.stop - rows.start) // len(found), numbers))
            at |= {key: numbers.start + i for i, key in enumerate(found)}
        return reads, at

    def _read_of(self, feature: Feature) -> tuple[tuple[int, ...], Window]:
        """The last partial of an aggregation is the one that its number is read from."""
        return self.layout.places(aggregation(feature.aggregation.op).partials(feature.aggregation)[-1]), feature.window

    def _groups(self, at: dict[tuple[tuple[int, ...], Window], int]) -> list[Group]:
        groups: list[Group] = []
        begin = len(self.read)
        for kind, members in self.grouped.items():
            features = [f for _, f in members]
            kinds = list(zip(*(kind.partials(f.aggregation) for f in features), strict=True))
            scalars = slice(begin, begin + len(features))
            begin = scalars.stop
            given = [kind.constant(f.aggregation, f.window) for f in features] if "constant" in kind.given else []
            constants = np.array(given, np.float64)[:, np.newaxis]
            if kind.takes == "columns":
                picks = [self._pick(partials, features)[1] for partials in kinds]
                groups.append(Group(kind, scalars, (), tuple((p, (p.stop - p.start) // len(features)) for p in picks), constants))
                continue
            numbers = tuple(
                np.array([at[self.layout.places(p), f.window] for p, f in zip(partials, features, strict=True)], np.intp)
                for partials in kinds
            )
            groups.append(Group(kind, scalars, numbers, (), constants))
        return groups

    def _entries(self) -> list[FromEntries]:
        shared: dict[tuple[Partial, Window], list[Taken]] = {}
        for row, (i, feature) in enumerate(self.kept, len(self.scalars)):
            declared = feature.aggregation
            partial = aggregation(declared.op).partials(declared)[-1]
            payload = declared.entry.index(Payload(declared.value, declared.width)) if declared.entry and declared.value else 0
            columns = None if feature.is_text else slice(self.columns[i], self.columns[i] + feature.size)
            shared.setdefault((partial, feature.window), []).append(Taken(row, i, payload, columns))
        found = []
        for (partial, wanted), taken in shared.items():
            assert isinstance(partial, Entries)
            found.append(FromEntries(partial, *self._place(wanted), tuple(taken)))
        return found

    def _place(self, declared: Window) -> tuple[int, int]:
        """(chain, place in the chain) of a window."""
        window = self.windows.index(declared)
        chain = next(k for k, chain in enumerate(self.chains) if chain.start <= window < chain.stop)
        return chain, window - self.chains[chain].start

    def _estimates(self) -> list[Estimate]:
        found = []
        for row, (i, feature) in enumerate(self.sketched, len(self.scalars) + len(self.kept)):
            asked = feature.aggregation
            sketch = aggregation(asked.op).sketch(asked)
            assert sketch is not None, asked.op
            layout, cells = next((k, one) for k, one in enumerate(self.layout.cells) if sketch in one.sketches)
            columns = None if feature.is_text else slice(self.columns[i], self.columns[i] + feature.size)
            found.append(Estimate(row, i, asked, sketch, layout, cells.sketches.index(sketch), feature.window, columns))
        return found


def _is_sketched(kind: type[Aggregation]) -> bool:
    return any(issubclass(partial, Sketch) for partial in kind.needs)


def _is_computed(kind: type[Aggregation]) -> bool:
    """Whether an aggregation computes its value, rather than reading its last partial's number as it is."""
    return kind.finalize is not Aggregation.finalize


def _chains(windows: Sequence[Window]) -> list[list[Window]]:
    """The windows in as few chains as a greedy walk finds, narrowest first, each window within the next at every instant."""
    chains: list[list[Window]] = []
    for window in sorted(windows, key=lambda w: (w.kind == "lifetime", w.length_us, tile_for(w))):
        for chain in chains:
            if _within(chain[-1], window):
                chain.append(window)
                break
        else:
            chains.append([window])
    return chains


def _within(narrow: Window, wide: Window) -> bool:
    """Whether ``wide``, which is no shorter, never begins after ``narrow``.

    A tumbling or hopping window begins after q - its length, and so lies within any sliding one; a sliding one where the other's tile
    is a multiple of its own, since floor keeps the order. A tumbling window holds the tumbling ones that divide it and their shift;
    of two hopping windows with one hop and one offset the longer one holds the other.
    """
    if "session" in (narrow.kind, wide.kind):
        return False
    if wide.kind == "lifetime":
        return True
    if wide.kind == "sliding":
        return narrow.kind != "sliding" or tile_for(wide) % tile_for(narrow) == 0
    if narrow.kind != wide.kind:
        return False
    _, wide_step, wide_shift = steps(wide)
    _, step, shift = steps(narrow)
    if wide.kind == "hopping":
        return (wide_step, wide_shift) == (step, shift)
    return wide_step % step == 0 and (wide_shift - shift) % step == 0
