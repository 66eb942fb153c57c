"""Rolling rows up into larger tiles, and dropping dead ones, without changing any answer that can still be asked for.

A row may move into a larger tile T only when no window made of smaller tiles can begin inside it any more. So each level above the
finest has a *frontier*, a multiple of its tile, kept in the header; everything before it is in rows of that level or above::

    x   = watermark - future tolerance - disorder - skew
    F_T = min over windows with a smaller tile of floor(window_start(window, x), T)

and the *horizon* is where the earliest window begins: rows that end at or before it are dropped. The lifetime tile is aligned to the level
below it, since it ends wherever its frontier is. An answer at q is exact iff q >= every F, every window begins at or after
the frontier of every larger level, and at or after the horizon; ``kernel.finalize`` checks that and refuses otherwise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featureflow.clock import NO_TIME_US
from featureflow.kernel.columns import LEVEL, START, Layout, Rows, Table
from featureflow.kernel.fold import merge
from featureflow.kernel.tile import LIFETIME_START_US, LIFETIME_US, SECOND_US, floor, tile_for, window_start

SKEW_US = 60 * SECOND_US  # how far behind the watermark - disorder - tolerance a question may still be asked

Int = NDArray[np.int64]


def frontiers(layout: Layout, watermark_us: int) -> tuple[int, Int]:
    """(horizon, (levels - 1,) frontiers) for this watermark: the partition's running maximum of accepted event times.

    A smaller watermark gives smaller ones; the caller keeps the maximum with those in the header.
    """
    above = np.full(len(layout.levels) - 1, NO_TIME_US, np.int64)
    if watermark_us == NO_TIME_US:
        return NO_TIME_US, above
    x = watermark_us - layout.future_us - layout.disorder_us - SKEW_US
    starts = {window: window_start(window, x) for window in layout.windows}
    for i, tile in enumerate(layout.levels[1:]):
        alignment = layout.levels[i] if tile == LIFETIME_US else tile
        # No window may be of the finest tile of cells: then only an instant may not lie before the frontier.
        above[i] = min(
            (floor(start, alignment) for window, start in starts.items() if tile_for(window) < tile), default=floor(x, alignment)
        )
    earliest = min(starts.values())
    return (NO_TIME_US if earliest == LIFETIME_START_US else earliest), above


def level_of(layout: Layout, times_us: Int, frontiers_us: Int) -> tuple[Int, Int]:
    """(level, start) of the row that an event at each time belongs to: the largest level whose frontier is above it.

    ``frontiers_us`` (levels - 1,), or (n, levels - 1) where each event's entity has its own.
    """
    level = np.zeros(len(times_us), np.int64)
    start = floor(times_us, layout.finest)
    for i, frontier in enumerate(frontiers_us.T, 1):
        before = times_us < frontier
        if before.any():
            level[before] = i
            start[before] = floor(times_us[before], layout.levels[i])
    return level, start


def rollable(layout: Layout, rows: Rows, horizons: Int, frontiers_us: Int) -> NDArray[np.bool_]:
    """(k,) which rows ``roll_up_all`` would drop or move."""
    table = layout.table(rows)
    level, start = table[:, LEVEL], table[:, START]
    out = _dead(layout, table, horizons)
    for i, frontier in enumerate(frontiers_us.T, 1):
        out |= (start < frontier) & (level < i)
    return out


def roll_up(layout: Layout, rows: Rows, horizon: int, frontiers_us: Int) -> Rows:
    """One state value's rows, with dead ones dropped and those before a frontier merged into its tiles, by start.

    The rows given may be rolled up to earlier frontiers already.
    """
    k = len(rows)
    frontiers = np.broadcast_to(np.asarray(frontiers_us, np.int64), (k, len(layout.levels) - 1))
    return roll_up_all(layout, rows, np.zeros(k, np.int64), np.full(k, horizon, np.int64), frontiers)[0]


def roll_up_all(layout: Layout, rows: Rows, owner: Int, horizons: Int, frontiers_us: Int) -> tuple[Rows, Int]:
    """``roll_up`` of many state values at once: rows and their owners, by owner, then start.

    ``owner`` (k,) is the value that each row belongs to, a small integer; ``horizons`` (k,) and ``frontiers_us`` (k, levels - 1) are
    its value's.
    """
    table = layout.table(rows)
    alive = np.flatnonzero(~_dead(layout, table, horizons))
    if len(alive) == 0:
        return layout.empty(), owner[:0]
    table, owner, frontiers_us = table.take(alive, axis=0), owner[alive], frontiers_us[alive]
    level, start = table[:, LEVEL], table[:, START]
    for i, frontier in enumerate(frontiers_us.T, 1):
        moving = np.flatnonzero((start < frontier) & (level < i))
        if len(moving):
            start[moving] = floor(start[moving], layout.levels[i])
            level[moving] = i
    keys = np.stack((owner, *(table[:, at] for at in layout.key_columns)))
    order = np.lexsort(keys[::-1])
    keys = keys[:, order]
    starts = np.flatnonzero(np.concatenate(([True], (keys[:, 1:] != keys[:, :-1]).any(axis=0))))
    return merge(layout, layout.rows(table), order, starts), owner[order[starts]]


def _dead(layout: Layout, table: Table, horizons: Int) -> NDArray[np.bool_]:
    tiles = np.array(layout.levels, np.int64)[table[:, LEVEL]]
    dead: NDArray[np.bool_] = (horizons != NO_TIME_US) & (table[:, START] + tiles <= horizons)
    return dead
