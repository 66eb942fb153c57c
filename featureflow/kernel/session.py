"""Where each entity's session begins: the events since its last pause of more than the gap.

Rows carry the oldest and the newest event time that were folded into them. A row's tile is no larger than the gap, so its own events are
never of two sessions; rows of several partitions may interleave and are looked at as if they had been one. So what comes out
depends on the events alone, not on the rows that they lie in.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.int64]


def session_begin(start: Int, t_min: Int, t_max: Int, entity: Int, oldest: Int, q_us: Int, gap_us: int, n: int) -> Int:
    """(n,) the smallest row start of each entity's session at its instant; q + 1, which no row has, where there is none.

    The rows (k,) are in any order within an entity, ``entity`` says whose each is. Rows that start before ``oldest`` or after ``q_us``,
    each (n,) or (1,), are left out. A session is there as long as q - its newest event <= ``gap_us``.
    """
    begin = np.broadcast_to(q_us + 1, (n,)).copy()
    inside = np.flatnonzero((start >= _of(oldest, entity)) & (start <= _of(q_us, entity)))
    if not len(inside):
        return begin
    inside = inside[np.lexsort((t_min[inside], entity[inside]))]
    start, t_min, t_max, entity = start[inside], t_min[inside], t_max[inside], entity[inside]
    places = np.arange(len(inside))
    # How far the rows up to each reach: a running maximum per entity, taken over ranks, which rise from entity to entity.
    by_end = np.lexsort((t_max, entity))
    rank = np.empty(len(inside), np.intp)
    rank[by_end] = places
    reach = t_max[by_end[np.maximum.accumulate(rank)]]

    other = entity[1:] != entity[:-1]
    breaks = np.concatenate(([True], other | (t_min[1:] - reach[:-1] > gap_us)))
    ends = np.append(np.flatnonzero(other), len(inside) - 1)   # the last row of each entity
    heads = np.maximum.accumulate(np.where(breaks, places, 0))[ends]
    lengths = ends - heads + 1
    last = np.repeat(heads - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
    of = entity[ends]
    first = np.minimum.reduceat(start[last], np.cumsum(lengths) - lengths)
    alive = _of(q_us, of) - reach[ends] <= gap_us
    begin[of[alive]] = first[alive]
    return begin


def _of(instants: Int, entity: Int) -> Int:
    return instants if len(instants) == 1 else instants[entity]
