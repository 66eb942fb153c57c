"""The layout of one view's state from one source: which columns a row has, and where.

A row is a run of little-endian int64:

    start  level | counts ... | limb 0 of every sum ... | limb 1 ... | ... | t_max  maxima ... | entries ...

so that rows are a two-dimensional int64 table without a copy, and each way to merge is a single call over one block of columns. ``start``
is the tile's start, ``level`` an index into ``Layout.levels``, ``t_max`` the newest event time folded into the row.

Sketches would make such rows thousands of columns wide, nearly all of them empty. Their cells are rows of narrow layouts beside it, in
state values of their own, one layout for each number of words that a cell has:

    start  level  cell | words ...         in memory; in the store the first three are one packed int64

An event adds at most a few cells. Between rows that are merged, ``cell`` is one more part of what must be equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from featureflow.clock import NO_TIME_US
from featureflow.define.spec import Aggregation, Column, Expr, Source, View, Window, columns_of, is_keyed
from featureflow.kernel import cell_key
from featureflow.kernel.aggregation.table import aggregation
from featureflow.kernel.partial.base import Merge, Partial
from featureflow.kernel.partial.basic import Count
from featureflow.kernel.partial.decayed import Decayed
from featureflow.kernel.partial.entries import Entries
from featureflow.kernel.partial.frequent import FrequentValues
from featureflow.kernel.partial.newest import LastN
from featureflow.kernel.partial.sketch import Sketch
from featureflow.kernel.partial.time import Earliest
from featureflow.kernel.tile import LADDER_US, LIFETIME_US, tile_for

FORMAT = 1
HEADER = np.dtype([("format", "<u2"), ("levels", "u1"), ("reserved", "u1"), ("owner", "<i4"), ("layout", "<u8"), ("horizon", "<i8")])
START, LEVEL, FIRST = 0, 1, 2
OLDEST = Earliest(None, None)              # the oldest event time folded into a row: where there is a session window
CELL, WORDS = 2, 3                         # of a row of cells

Rows = NDArray[np.void]                    # (k,) of ``Layout.dtype``
Table = NDArray[np.int64]                  # (k, Layout.width)


@dataclass(frozen=True)
class Layout:
    """Made by ``Layout.of``. Two equal views give equal layouts; ``id`` is written into every state value.

    ``cells`` are the layouts of the sketches of the same view and source, each in state values of its own.
    """

    view_id: str
    entity: str
    source: str
    key_field: str                         # the event field that holds the entity's id
    keyed: bool                            # an entity's events are all in one partition: one state key for all of them
    disorder_us: int
    future_us: int
    ttl_us: int | None
    windows: tuple[Window, ...]            # distinct; finalize's second axis
    levels: tuple[int, ...]                # tile sizes, finest first; LIFETIME_US last if there is one
    partials: tuple[Partial, ...]          # in column order
    required: frozenset[str]               # fields that are never null
    accumulates: bool                      # some lifetime value is made of all events ever, not of the newest ones
    dedupe: str | None = None              # the field that tells duplicates, where the source has one
    texts: frozenset[str] = frozenset()    # fields that are strings,
    vectors: frozenset[str] = frozenset()  # and those that are vectors
    cells: tuple[CellLayout, ...] = ()

    key_columns: ClassVar[tuple[int, ...]] = (START, LEVEL)   # the columns in which rows of one entity must be equal to be merged

    @staticmethod
    def of(view: View, source: Source) -> Layout:
        """The layout of ``view``'s aggregations over ``source``. Raises DefinitionError for a window that has no tile."""
        declared = [a for a in view.aggregations if a.source == source.name]
        windows = tuple(dict.fromkeys(window for a in declared for window in a.windows))
        required = frozenset(field.name for field in source.fields if not field.nullable)
        partials = {_shared(p, required) for a in declared for p in aggregation(a.op).partials(a)}
        if any(window.kind == "session" for window in windows):
            partials.add(OLDEST)
        rank = list(Merge)
        layout = Layout(
            view_id=view.id,
            entity=view.entity,
            source=source.name,
            key_field=view.keys[source.name],
            keyed=is_keyed(view, source),
            disorder_us=source.disorder_us,
            future_us=source.future_us,
            ttl_us=view.ttl_us,
            windows=windows,
            levels=tuple(sorted({tile_for(window) for window in windows})),
            partials=tuple(
                sorted(
                    (p for p in partials if not isinstance(p, Sketch)), key=lambda p: (rank.index(p.merge), len(p.columns), repr(p))
                )
            ),
            required=required,
            dedupe=source.dedupe,
            texts=frozenset(field.name for field in source.fields if field.type == "str"),
            vectors=frozenset(field.name for field in source.fields if field.type == "vector"),
            accumulates=any(
                window.kind == "lifetime" and LastN not in aggregation(a.op).needs for a in declared for window in a.windows
            ),
        )
        return replace(layout, cells=CellLayout.beside(layout, declared))

    @property
    def part(self) -> str:
        """What tells its state keys from those of the layouts beside it."""
        return ""

    @property
    def all(self) -> tuple[Layout, ...]:
        """It and the layouts of its sketches: the state values that an entity has from this source (and partition)."""
        return (self, *self.cells)

    # -- time ----------------------------------------------------------------------------------------------------------

    @property
    def finest(self) -> int:
        """Microseconds: the tile of the rows that events are folded into."""
        return self.levels[0]

    @cached_property
    def apart_us(self) -> int | None:
        """Rows of different tiles of this size are never merged while they are in a window; None: only its beginning cuts them."""
        sessions = [tile_for(window) for window in self.windows if window.kind == "session"]
        return min((*sessions, *(p.tile_us for p in self.partials if isinstance(p, Decayed))), default=None)

    @cached_property
    def retention_us(self) -> int:
        """The longest window; a lifetime window counts its ttl. ``LIFETIME_US`` where there is none."""
        lifetime = LIFETIME_US if self.ttl_us is None else self.ttl_us
        return max(lifetime if window.kind == "lifetime" else window.length_us for window in self.windows)

    @cached_property
    def ttl_ms(self) -> int:
        """How long after its last write a state value may be needed; 0: for ever.

        Longest (window + its tile) + disorder + future tolerance + one tile; the declared ttl counts as the window of ``last`` and
        ``last_n``, whose entries it expires one by one. Any other lifetime value of an entity that comes back after its ttl is made of
        what was before too, so the state is kept for ever: were it dropped, the value would depend on whether it had been.
        """
        if self.accumulates or self.retention_us == LIFETIME_US:
            return 0
        tiles = [0 if level == LIFETIME_US else level for level in self.levels]
        return -(-(self.retention_us + 2 * max(tiles) + self.disorder_us + self.future_us) // 1_000)

    # -- what it reads -------------------------------------------------------------------------------------------------

    @cached_property
    def value_fields(self) -> tuple[str, ...]:
        """Event fields that values and conditions read."""
        return tuple(dict.fromkeys(name for p in self.partials for expr in p.exprs for name in columns_of(expr)))

    @cached_property
    def read(self) -> tuple[str, ...]:
        """What of an event decides its rows and cells: the ``value_fields`` of all, by name."""
        return tuple(sorted({name for layout in self.all for name in layout.value_fields}))

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """Event fields needed at all: the key, what tells duplicates, and ``value_fields``, those of the cells included."""
        told = () if self.dedupe is None else (self.dedupe,)
        return tuple(dict.fromkeys((self.key_field, *told, *(name for layout in self.all for name in layout.value_fields))))

    @cached_property
    def inputs(self) -> tuple[tuple[tuple[Expr | None, Expr | None], tuple[Partial, ...]], ...]:
        """Distinct (value, where) with the partials that share them."""
        grouped: dict[tuple[Expr | None, Expr | None], list[Partial]] = {}
        for p in self.partials:
            grouped.setdefault((p.value, p.where), []).append(p)
        return tuple((key, tuple(members)) for key, members in grouped.items())

    # -- where its columns are -----------------------------------------------------------------------------------------

    def places(self, partial: Partial) -> tuple[int, ...]:
        """The table positions of a partial's columns."""
        return self.positions[_shared(partial, self.required)]

    @cached_property
    def positions(self) -> dict[Partial, tuple[int, ...]]:
        """Partial -> the table positions of its columns."""
        at = FIRST
        positions: dict[Partial, tuple[int, ...]] = {}
        for p in self._of(Merge.ADD):
            positions[p], at = (at,), at + 1
        limbs: dict[Partial, list[int]] = {p: [] for p in self._of(Merge.LIMBS)}
        for i in range(max((len(p.columns) for p in limbs), default=0)):
            for p, places in limbs.items():
                if i < len(p.columns):
                    places.append(at)
                    at += 1
        positions |= {p: tuple(places) for p, places in limbs.items()}
        at += 1  # t_max
        for p in (*self._of(Merge.MAX), *self._of(Merge.BEST)):
            positions[p], at = tuple(range(at, at + len(p.columns))), at + len(p.columns)
        return positions

    @cached_property
    def t_max(self) -> int:
        """The table position of ``t_max``: the end of what is added, the begin of what is maximised."""
        return FIRST + sum(len(p.columns) for p in self.partials if p.merge in (Merge.ADD, Merge.LIMBS))

    @cached_property
    def max_end(self) -> int:
        """The end of the block of maxima, which begins at ``t_max``."""
        return self.t_max + 1 + len(self._of(Merge.MAX))

    @cached_property
    def entries(self) -> tuple[Entries, ...]:
        """Partials whose columns are entries, merged by which are best."""
        return tuple(p for p in self.partials if isinstance(p, Entries))

    @cached_property
    def widths(self) -> tuple[tuple[Expr, Expr | None, int], ...]:
        """(value, where, bytes) of each string that entries keep or sketches count: see ``accept.too_wide``."""
        kept = [(one.value, p.where, one.width) for p in self.entries for one in p.payload if one.width]
        counted = [(p.value, p.where, p.width) for cells in self.cells for p in cells.partials if isinstance(p, FrequentValues) and p.width]
        return tuple(dict.fromkeys((value, where, width) for value, where, width in (*kept, *counted) if value is not None))

    @cached_property
    def carries(self) -> tuple[tuple[slice, slice], ...]:
        """(from, to) blocks of the added columns, in order: each limb of ``from`` carries into its place in ``to``."""
        places = [self.positions[p] for p in self._of(Merge.LIMBS)]
        steps = []
        for i in range(max(map(len, places), default=1) - 1):
            moving = [p for p in places if len(p) > i + 1]  # the longest come last, so both are contiguous
            low, high = (slice(moving[0][k] - FIRST, moving[-1][k] - FIRST + 1) for k in (i, i + 1))
            steps.append((low, high))
        return tuple(steps)

    def _of(self, merge: Merge) -> tuple[Partial, ...]:
        return tuple(p for p in self.partials if p.merge is merge)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Column names in table order."""
        names = {START: "start", LEVEL: "level", self.t_max: "t_max"}
        for number, p in enumerate(self.partials):
            names |= {at: f"p{number}_{name}" for at, name in zip(self.positions[p], p.columns, strict=True)}
        return tuple(names[at] for at in range(len(names)))

    @cached_property
    def width(self) -> int:
        """Columns of a row."""
        return len(self.names)

    @cached_property
    def dtype(self) -> np.dtype[np.void]:
        """A packed row of int64 columns; ``row_bytes`` is 8 * ``width``."""
        return np.dtype([(name, "<i8") for name in self.names])

    @property
    def row_bytes(self) -> int:
        """Of a row in the store."""
        return 8 * self.width

    @property
    def rows_per_event(self) -> int:
        """That one event may change, at most."""
        return 1

    @property
    def header_bytes(self) -> int:
        """Of a state value, before its rows."""
        return HEADER.itemsize + 8 * (len(self.levels) - 1)

    @cached_property
    def identity(self) -> Table:
        """(width,) the row that changes nothing in a merge; start and level 0."""
        row = np.zeros(self.width, np.int64)
        row[self.t_max] = NO_TIME_US
        for p in self.partials:
            row[list(self.positions[p])] = p.identity
        return row

    @cached_property
    def id(self) -> int:
        """The first 8 bytes of a SHA-256 over everything that decides what a row's bytes mean, as an unsigned integer."""
        meaning = (FORMAT, self.view_id, self.source, self.levels, self.names, [repr(p) for p in self.partials])
        return int.from_bytes(hashlib.sha256(repr(meaning).encode()).digest()[:8], "little")

    # -- rows and tables -----------------------------------------------------------------------------------------------

    def table(self, rows: Rows) -> Table:
        """The rows as (k, width) int64, sharing memory where they are contiguous."""
        return np.ascontiguousarray(rows).view("<i8").reshape(len(rows), self.width)

    def rows(self, table: Table) -> Rows:
        """The inverse of ``table``."""
        return np.ascontiguousarray(table).view(self.dtype).reshape(len(table))

    def empty(self) -> Rows:
        """No row."""
        return np.zeros(0, self.dtype)

    def to_bytes(self, table: Table) -> bytes:
        """Rows as the store has them, ``row_bytes`` each."""
        return table.tobytes()

    def from_bytes(self, data: bytes) -> Rows:
        """The inverse of ``to_bytes``."""
        return np.frombuffer(data, self.dtype)


@dataclass(frozen=True)
class CellLayout(Layout):
    """The cells of a layout's sketches whose cells have so many ``words``; ``partials`` are the sketches, in the order of their numbers.

    ``windows`` are those of its sketches. The finest tile is that of the layout beside it, so that both count the same events, but of a
    second at least.
    """

    words: int = 1

    key_columns: ClassVar[tuple[int, ...]] = (START, LEVEL, CELL)

    @staticmethod
    def beside(layout: Layout, declared: Sequence[Aggregation]) -> tuple[CellLayout, ...]:
        """One for each number of words."""
        uses = [(p, a) for a in declared for p in aggregation(a.op).partials(a) if isinstance(p, Sketch)]
        found = []
        for words in sorted({sketch.words for sketch, _ in uses}):
            mine = [(sketch, a) for sketch, a in uses if sketch.words == words]
            windows = tuple(dict.fromkeys(window for _, a in mine for window in a.windows))
            found.append(
                CellLayout(
                    view_id=layout.view_id,
                    entity=layout.entity,
                    source=layout.source,
                    key_field=layout.key_field,
                    keyed=layout.keyed,
                    disorder_us=layout.disorder_us,
                    future_us=layout.future_us,
                    ttl_us=layout.ttl_us,
                    windows=windows,
                    levels=tuple(sorted({max(layout.finest, LADDER_US[0]), *map(tile_for, windows)})),
                    partials=tuple(sorted({sketch for sketch, _ in mine}, key=repr)),
                    required=layout.required,
                    accumulates=any(window.kind == "lifetime" for window in windows),
                    words=words,
                )
            )
        return tuple(found)

    @property
    def part(self) -> str:
        return f"cells{self.words}"

    @cached_property
    def sketches(self) -> tuple[Sketch, ...]:
        """A cell's number among all is its sketch's place here, above ``INDEX_BITS``, and its number in the sketch."""
        return tuple(p for p in self.partials if isinstance(p, Sketch))

    @cached_property
    def names(self) -> tuple[str, ...]:
        return ("start", "level", "cell", *(f"word_{i}" for i in range(self.words)))

    @property
    def row_bytes(self) -> int:
        return 8 * (1 + self.words)

    @property
    def rows_per_event(self) -> int:
        return sum(sketch.per_event for sketch in self.sketches)

    def to_bytes(self, table: Table) -> bytes:
        out = np.empty((len(table), 1 + self.words), np.int64)
        out[:, 0] = self.packed(table)
        out[:, 1:] = table[:, WORDS:]
        return out.tobytes()

    def from_bytes(self, data: bytes) -> Rows:
        stored = np.frombuffer(data, "<i8").reshape(-1, 1 + self.words)
        table = np.empty((len(stored), self.width), np.int64)
        table[:, START], table[:, LEVEL], table[:, CELL] = cell_key.unpacked(stored[:, 0])
        table[:, WORDS:] = stored[:, 1:]
        return self.rows(table)

    @staticmethod
    def packed(table: Table) -> NDArray[np.int64]:
        """(k,) what rows must have in common to be merged, as one int64 each."""
        return cell_key.packed(table[:, START], table[:, LEVEL], table[:, CELL])


def _shared(partial: Partial, required: frozenset[str]) -> Partial:
    """How many values of a field that is never null is how many events: one column for both."""
    if isinstance(partial, Count) and isinstance(partial.value, Column) and partial.value.name in required:
        return Count(None, partial.where)
    return partial
