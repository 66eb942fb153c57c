"""Which of a slab's entities are rolled up with a commit."""

from __future__ import annotations

import numpy as np

from featureflow import limits
from featureflow.ingest.arena import Arena
from featureflow.ingest.order import Index
from featureflow.ingest.slots import Slots
from featureflow.kernel import rollup
from featureflow.kernel.columns import Layout

SHARE = 0.5                                # of an entity's rows dead or rollable: it is rolled up and written whole
LEAST_ROWS = 16                            # fewer are not looked at


def roll_up(layout: Layout, arena: Arena, known: Slots, entities: Index, watermark_us: int) -> Index:
    """Drop dead rows and merge rollable ones of those of the entities where they have become a large share: these slots.

    The largest come first: ``limits.ROLL_UP_ROWS`` for as many of the entities (distinct) as one commit may write. An entity is looked at
    when its rows have grown by half since it last was, or all that it had then are dead.
    """
    now_horizon, now_frontiers = rollup.frontiers(layout, watermark_us)
    counts = arena.count[entities]
    grown = counts >= np.maximum(known.look_at[entities], LEAST_ROWS)
    slots = entities[grown | ((counts >= LEAST_ROWS) & (now_horizon > known.look_after_us[entities]))]
    if len(slots) == 0:
        return slots
    slots = slots[np.argsort(-arena.count[slots], kind="stable")]
    most = limits.ROLL_UP_ROWS * -(-len(entities) // limits.COMMIT_KEYS)
    slots = slots[: max(1, int(np.searchsorted(np.cumsum(arena.count[slots]), most)))]
    horizon = np.maximum(known.horizon[slots], now_horizon)
    frontiers = np.maximum(known.frontiers[slots], now_frontiers)
    where, owner = arena.where(slots)
    rows = layout.rows(arena.table.take(where, axis=0))
    counts = arena.count[slots]
    idle = rollup.rollable(layout, rows, horizon[owner], frontiers[owner])
    due = np.bincount(owner, idle, len(slots)) >= SHARE * counts
    known.look_after_us[slots] = watermark_us
    known.look_at[slots[~due]] = counts[~due] + np.maximum(counts[~due] // 2, LEAST_ROWS)
    if not due.any():
        return slots[:0]
    among = due[owner]
    rows, owner = rollup.roll_up_all(layout, rows.compress(among), owner[among], horizon[owner[among]], frontiers[owner[among]])
    counts = np.bincount(owner, minlength=len(slots))[due]
    slots = slots[due]
    arena.replace(slots, layout.table(rows), counts)
    known.horizon[slots], known.frontiers[slots] = horizon[due], frontiers[due]
    known.look_at[slots] = np.maximum(2 * counts, LEAST_ROWS)
    known.rewrite[slots] = True
    return slots
