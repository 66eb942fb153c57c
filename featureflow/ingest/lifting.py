"""Entities that the store has as few events, and that are rows from a batch on.

With the batch's first event of theirs all that is here of them is written, rows and cells, though the event changes one row or none.
"""

from __future__ import annotations

from dataclasses import dataclass

from featureflow.ingest.arena import Arena, Table
from featureflow.ingest.order import Index


@dataclass(frozen=True)
class Lifting:
    """Those of one slab of which rows are there already."""

    slots: Index                           # (l,) distinct, in order
    events: Index                          # (l,) the place of each one's first event in the batch

    def lifted(self, commit_of: Index, arena: Arena) -> Lifted:
        """Once the batch is cut into commits, ``commit_of`` (n,) each event's, and before the arena's rows change."""
        return Lifted(self.slots, commit_of[self.events], arena.table.take(arena.base[self.slots], axis=0))


@dataclass(frozen=True)
class Lifted:
    """``Lifting``, with the commits that write them."""

    slots: Index                           # (l,) distinct, in order
    commits: Index                         # (l,)
    rows: Table                            # (l, width) the first row of each, as it was before
