"""A plain keeper of states: folds batches into rows, rolls them up, and gives them out through the codec.

What the ingest slab does, one entity at a time, for tests of the kernel's rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from unit.kernel.worlds import World, events_of

from featureflow.clock import NO_TIME_US
from featureflow.kernel import rollup
from featureflow.kernel.accept import counted, judge
from featureflow.kernel.columns import CellLayout, Layout, Rows
from featureflow.kernel.events import Events
from featureflow.kernel.fold import combine, fold, lift_rows
from featureflow.kernel.state import States, encode, parse
from oracle import Record


@dataclass
class Held:
    """One state value."""

    rows: Rows
    horizon: int
    frontiers: np.ndarray


@dataclass
class Keeper:
    world: World
    maximum: dict[tuple[str, int], int] = field(default_factory=dict)
    held: dict[tuple[str, int, str], Held] = field(default_factory=dict)
    cells: dict[tuple[str, int, str, int], Held] = field(default_factory=dict)     # of the layout's cells: the last number is which

    def __post_init__(self) -> None:
        self.layouts = self.world.kernel.layouts

    def fold(self, records: Sequence[Record]) -> None:
        """A batch of records of one partition."""
        name, partition = records[0].source, records[0].partition
        layout, source = self.layouts[name], self.world.sources[name]
        events = events_of(records, partition)
        before = self.maximum.get((name, partition), NO_TIME_US)
        verdict = judge(events, before, source)
        self.maximum[name, partition] = verdict.max_time_us(before)
        counts = counted(layout, events, verdict, np.ones(len(events), np.bool_))
        for user in ("u1", "u2"):
            mine = events.take(np.flatnonzero(counts & (events.columns["user"] == user)))
            if len(mine):
                self._fold_one(layout, (name, partition, user), mine)
                for k, cells in enumerate(layout.cells):
                    self._fold_cells(cells, (name, partition, user, k), mine)

    def _fold_cells(self, layout: CellLayout, key: tuple[str, int, str, int], mine: Events) -> None:
        none = np.full(len(layout.levels) - 1, NO_TIME_US)
        held = self.cells.setdefault(key, Held(layout.empty(), NO_TIME_US, none))
        rows, of = lift_rows(layout, mine)
        rows["level"], rows["start"] = (column[of] for column in rollup.level_of(layout, mine.times_us, held.frontiers))
        for row in range(len(rows)):
            one = rows[row:row + 1]
            same = [held.rows[name] == one[name] for name in ("start", "level", "cell")]
            there = np.flatnonzero(np.logical_and.reduce(same))
            if len(there):
                held.rows[there] = combine(layout, held.rows[there], one)
            else:
                held.rows = np.concatenate((held.rows, one))

    def _fold_one(self, layout: Layout, key: tuple[str, int, str], mine: object) -> None:
        none = np.full(len(layout.levels) - 1, NO_TIME_US)
        held = self.held.setdefault(key, Held(layout.empty(), NO_TIME_US, none))
        level, start = self.place(layout, mine.times_us, held)
        order = np.lexsort((start, level))
        places = np.stack((level, start))[:, order]
        starts = np.flatnonzero(np.concatenate(([True], (places[:, 1:] != places[:, :-1]).any(axis=0))))
        new = fold(layout, mine, order, starts)
        new["level"], new["start"] = places[:, starts]
        for row in range(len(new)):
            one = new[row:row + 1]
            there = np.flatnonzero((held.rows["start"] == one["start"]) & (held.rows["level"] == one["level"]))
            if len(there):
                held.rows[there] = combine(layout, held.rows[there], one)
            else:
                held.rows = np.concatenate((held.rows, one))

    def place(self, layout: Layout, times: np.ndarray, held: Held) -> tuple[np.ndarray, np.ndarray]:
        return rollup.level_of(layout, times, held.frontiers)

    def roll_up(self, key: tuple[str, int, str]) -> None:
        layout = self.layouts[key[0]]
        self._roll_up(layout, self.held[key], key)
        for k, cells in enumerate(layout.cells):
            self._roll_up(cells, self.cells[*key, k], key)

    def _roll_up(self, layout: Layout, held: Held, key: tuple[str, int, str]) -> None:
        horizon, frontiers = rollup.frontiers(layout, self.maximum[key[:2]])
        held.horizon, held.frontiers = max(held.horizon, horizon), np.maximum(held.frontiers, frontiers)
        held.rows = rollup.roll_up(layout, held.rows, held.horizon, held.frontiers)

    def states(self, users: Sequence[str]) -> dict[str, States]:
        return {
            name: parse(
                layout,
                [
                    [self._bytes(layout, (name, partition, user)) for partition in range(2)]
                    + [
                        self._cells(cells, (name, partition, user, k)) for k, cells in enumerate(layout.cells) for partition in range(2)
                    ]
                    for user in users
                ],
            )
            for name, layout in self.layouts.items()
        }

    def _bytes(self, layout: Layout, key: tuple[str, int, str]) -> bytes | None:
        held = self.held.get(key)
        return None if held is None else encode(layout, key[1], held.horizon, held.frontiers, held.rows)

    def _cells(self, layout: CellLayout, key: tuple[str, int, str, int]) -> bytes | None:
        held = self.cells.get(key)
        return None if held is None else encode(layout, key[1], held.horizon, held.frontiers, held.rows)
