"""Events of history that some rows may need, read once: judged, and sorted by entity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featureflow.clock import NO_TIME_US
from featureflow.define.spec import Source
from featureflow.kernel.accept import counted, judge
from featureflow.kernel.columns import Layout
from featureflow.kernel.dedupe import Ids
from featureflow.kernel.events import Events
from featureflow.kernel.field import column
from featureflow.kernel.tile import LIFETIME_US, floor, window_start
from featureflow.store.history.protocol import HistoryStore

Int = NDArray[np.int64]
NOBODY = -1
PAGE_ROWS = 50_000


@dataclass(frozen=True)
class Entities:
    """Ids in order of first appearance. ``codes`` (n,): each row's place among them, NOBODY for a row without an id."""

    places: Mapping[Any, int]
    codes: Int

    @staticmethod
    def of(ids: NDArray[Any]) -> Entities:
        """From one id a row, (n,); None and NaN are none."""
        places: dict[Any, int] = {}
        codes = [NOBODY if value is None or value != value else places.setdefault(value, len(places)) for value in ids.tolist()]
        return Entities(places, np.array(codes, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.places)

    def find(self, column: NDArray[Any]) -> Int:
        """Codes of an event column; NOBODY for ids that no row asks for."""
        return np.fromiter(map(self.places.get, column.tolist(), repeat(NOBODY)), dtype=np.int64, count=len(column))


@dataclass(frozen=True)
class Wanted:
    """What one view needs of one source."""

    layout: Layout
    entities: Entities
    first_us: int                          # of any row's windows
    end_us: int                            # no event at or after it can count

    @staticmethod
    def of(layout: Layout, entities: Entities, instants_us: Int) -> Wanted:
        """For rows at these instants (n,), microseconds."""
        if not len(instants_us):
            return Wanted(layout, entities, 0, 0)
        first, last = int(instants_us.min()), int(instants_us.max())
        end = 2**63 - 1 if layout.finest == LIFETIME_US else floor(last, layout.finest) + layout.finest
        return Wanted(layout, entities, min(window_start(window, first) for window in layout.windows), end)


@dataclass(frozen=True)
class Gathered:
    """One partition's accepted events that count for one view, sorted by entity, then event time."""

    codes: Int                             # (n,) nondecreasing
    seen: Int                              # (n,) what each is visible from
    events: Events


Seen = Callable[[Events], Int]


def gather(
    history: HistoryStore,
    source: Source,
    wanted: Sequence[Wanted],
    *,
    columns: Sequence[str],
    seen: Seen,
    partition: int,
    from_offset: int,
    to_offset: int,
    by: Sequence[Source],
    progress: Callable[[int], None],
) -> list[Gathered]:
    """One scan of a partition for several views; one answer each. Every verdict is taken in offset order from ``from_offset``.

    ``by``: the definitions of the source that these views were folded by, where it has had several.
    """
    names = tuple(dict.fromkeys((*columns, *(field for want in wanted for field in want.layout.fields))))
    kept: list[list[tuple[Int, Int, Events]]] = [[] for _ in wanted]
    max_time_us = NO_TIME_US
    ids = None if source.dedupe is None else [Ids(source) for _ in wanted]
    pages = history.scan(
        source, partition=partition, columns=names, from_offset=from_offset, to_offset=to_offset, page_rows=PAGE_ROWS, by=by
    )
    for page in pages:
        events = page.events
        verdict = judge(events, max_time_us, source)
        max_time_us = verdict.max_time_us(max_time_us)
        visible = seen(events)
        codes: dict[tuple[int, str], Int] = {}
        for number, (want, parts) in enumerate(zip(wanted, kept, strict=True)):
            key = (id(want.entities), want.layout.key_field)
            if key not in codes:
                codes[key] = want.entities.find(events.columns[want.layout.key_field])
            asked = codes[key] != NOBODY
            near = (events.times_us >= want.first_us) & (events.times_us < want.end_us)
            counts = counted(want.layout, events, verdict, asked & near if ids is None else asked)
            if ids is not None:                                # of all, and then those near: what one is a copy of may be older
                duplicate, _ = ids[number].judge(events, want.layout.key_field, counts, verdict.running_max_us)
                ids[number].prune(max_time_us)
                counts &= near & ~duplicate
            index = np.flatnonzero(counts)
            narrow = Events(
                partition, events.offsets, events.times_us, events.timestamps_us,
                {name: events.columns[name] for name in want.layout.fields}, events.append_time,
            )
            parts.append((codes[key][index], visible[index], narrow.take(index)))
        progress(len(events))
    return [_sorted(partition, source, want.layout, parts) for want, parts in zip(wanted, kept, strict=True)]


def _sorted(partition: int, source: Source, layout: Layout, parts: Sequence[tuple[Int, Int, Events]]) -> Gathered:
    none = np.zeros(0, np.int64)
    codes = np.concatenate([none, *(part[0] for part in parts)])
    seen = np.concatenate([none, *(part[1] for part in parts)])
    several = [part[2] for part in parts]
    events = Events(
        partition,
        np.concatenate([none, *(e.offsets for e in several)]),
        np.concatenate([none, *(e.times_us for e in several)]),
        np.concatenate([none, *(e.timestamps_us for e in several)]),
        {name: np.concatenate([column(source.by_name[name], []), *(e.columns[name] for e in several)]) for name in layout.fields},
    )
    order = np.lexsort((events.times_us, codes))
    return Gathered(codes[order], seen[order], events.take(order))
