"""A slab's folded rows as what commits write: patches of the rows that were touched, and whole values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featureflow.ingest.arena import Table, spans
from featureflow.ingest.lifting import Lifted
from featureflow.ingest.order import Index, changes, in_order, lengths
from featureflow.ingest.slots import Slots
from featureflow.kernel import event_form, state
from featureflow.kernel.columns import Layout
from featureflow.store.online.writes import HEAD, PLACE, WHOLE, Writes

RENEW_SHARE = 8

POSITION_BITS = 28                     # of a row's position, beside its slot in an int64


@dataclass(frozen=True)
class Touched:
    """Rows as each of several commits leaves them: k (row, commit) pairs, in any order, each once.

    A commit's number says when it is applied: 0 is first.
    """

    commits: Index                         # (k,)
    slots: Index                           # (k,)
    positions: Index                       # (k,) of the row among its entity's
    fresh: NDArray[np.bool_]               # (k,) no commit before it had the row
    table: Table                           # (k, width)


@dataclass(frozen=True)
class Entities:
    """The entities of rows that were touched, as they were before."""

    slots: Index                           # (e,) distinct, in order
    held: Index                            # (e,) rows
    whole: NDArray[np.bool_]               # (e,) to be written whole by the first commit that touches it
    rows: Table                            # those held by the ones written whole, entity after entity


class StateWrites:
    """Writes of one slab's entities.

    A key is given an eighth more life than its state can be needed for, and its life is renewed once that eighth has passed: the state is
    never gone while it may be needed, and most patches leave the key's time to live alone. By the store's clock throughout.
    """

    def __init__(self, layout: Layout, slots: Slots) -> None:
        self._layout, self._slots = layout, slots
        self.slack_ms = -(-layout.ttl_ms // RENEW_SHARE)
        self.life_ms = layout.ttl_ms + self.slack_ms

    def of(self, touched: Touched, entities: Entities, commits: int) -> tuple[list[tuple[Writes, int]], Index]:
        """What each of so many commits writes, of how many rows, and (e,) the last commit that touches each entity.

        An entity that is written whole has the header from now on that this gives it.
        """
        order = _in_order(touched)
        number, slots, positions = touched.commits[order], touched.slots[order], touched.positions[order]
        begins = changes(slots)
        begins[1:] |= number[1:] != number[:-1]
        pairs = begins.nonzero()[0]                                # (entity, commit): where its rows begin
        entity = entities.slots.searchsorted(slots[pairs])
        grown = np.add.reduceat(touched.fresh[order], pairs, dtype=np.int64)
        table = touched.table.take(order, axis=0)
        if commits == 1:                                           # all there is of each entity
            held, whole, last = entities.held, entities.whole, np.zeros(len(pairs), np.int64)
        else:
            by_entity = in_order(entity)
            first = changes(entity[by_entity]).nonzero()[0]        # each entity's first commit
            before = grown[by_entity].cumsum() - grown[by_entity]
            times = lengths(first, len(pairs))
            held = np.empty(len(pairs), np.int64)                  # rows that the key has when the commit comes
            held[by_entity] = before + (entities.held - before[first]).repeat(times)
            whole = np.zeros(len(pairs), np.bool_)
            whole[by_entity[first]] = entities.whole
            last = number[pairs[by_entity[first + times - 1]]]
        if not entities.whole.any():
            writes = self._patches(commits, number, slots, positions, begins, held, np.zeros(len(pairs), np.bool_), table)
        elif whole.all():
            writes = self._wholes(commits, number[pairs], slots[pairs], held, grown, entities, lengths(pairs, len(order)), positions, table)
        else:
            of_whole = whole.repeat(lengths(pairs, len(order)))
            rest = (~of_whole).nonzero()[0]
            each = self._wholes(commits, number[pairs[whole]], slots[pairs[whole]], held[whole], grown[whole], entities,
                                lengths(pairs, len(order))[whole], positions[of_whole], table[of_whole])
            patched = self._patches(commits, number[rest], slots[rest], positions[rest], begins[rest], held[~whole],
                                    entities.whole[entity[~whole]], table[rest])
            writes = [a + b for a, b in zip(patched, each, strict=True)]
        rows = np.bincount(number, minlength=commits).tolist()
        return list(zip(writes, rows, strict=True)), last

    def of_some(
        self, touched: Touched, before: Entities, apart: NDArray[np.bool_], lifted: Lifted | None, commits: int
    ) -> tuple[list[tuple[Writes, int]], Index]:
        """As ``of``, but nothing of the entities that are written as events, ``apart`` (e,), and all of those that no longer are."""
        last, entity = np.zeros(len(before.slots), np.int64), np.searchsorted(before.slots, touched.slots)
        np.maximum.at(last, entity, touched.commits)
        if lifted is not None:
            first = np.full(len(before.slots), commits)
            np.minimum.at(first, entity, touched.commits)
            at = np.searchsorted(before.slots, lifted.slots)
            last[at] = np.maximum(last[at], lifted.commits)
            alone = (first[at] != lifted.commits) & (before.held[at] > 0)    # rows of which no event of that commit changes one
            none = np.zeros(int(alone.sum()), np.int64)
            touched = Touched(
                np.concatenate((touched.commits, lifted.commits[alone])),
                np.concatenate((touched.slots, lifted.slots[alone])),
                np.concatenate((touched.positions, none)),
                np.concatenate((touched.fresh, none.astype(np.bool_))),
                np.concatenate((touched.table, lifted.rows[alone])),
            )
        mine = np.flatnonzero(~self._slots.as_events[touched.slots])
        if not len(mine):
            return [(Writes(), 0)] * commits, last
        touched = Touched(touched.commits[mine], touched.slots[mine], touched.positions[mine], touched.fresh[mine], touched.table[mine])
        writes, last[~apart] = self.of(
            touched, Entities(before.slots[~apart], before.held[~apart], before.whole[~apart], before.rows), commits
        )
        return writes, last

    def _patches(
        self, commits: int, number: Index, slots: Index, positions: Index, begins: NDArray[np.bool_], held: Index,
        renewed: NDArray[np.bool_], table: Table,
    ) -> list[Writes]:
        """One write per entity and commit; rows that adjoin share a patch. ``held`` and ``renewed`` are one for each begin."""
        if len(slots) == 0:
            return [Writes()] * commits
        known, size, header = self._slots, self._layout.row_bytes, self._layout.header_bytes
        firsts = (begins | changes(positions - np.arange(len(positions)))).nonzero()[0]
        places = np.empty(len(firsts), PLACE)
        places["position"] = header + positions[firsts] * size
        places["size"] = lengths(firsts, len(slots)) * size
        starts = begins[firsts].nonzero()[0]
        at = firsts[starts]
        entities = slots[at]
        heads = np.empty(len(entities), HEAD)
        heads["expected"] = header + held * size
        heads["header"] = header
        heads["patches"] = lengths(starts, len(firsts))
        heads["ttl_ms"] = self.life_ms
        heads["renew_ms"] = np.where(renewed, 0, known.renew_ms[entities])   # after a whole value of the same batch: when is not known
        keys = tuple(map(known.keys.__getitem__, entities.tolist()))
        headers, data = known.headers[entities, :header], self._layout.to_bytes(table)
        if commits == 1:
            return [Writes(keys, heads.tobytes(), headers.tobytes(), places.tobytes(), data)]
        ends = np.arange(1, commits + 1)
        bounds = [n.searchsorted(ends, side="left").tolist() for n in (number[at], number[firsts], number)]
        out, k, p, r = [], 0, 0, 0
        for k1, p1, r1 in zip(*bounds, strict=True):
            out.append(
                Writes(
                    keys[k:k1], heads[k:k1].tobytes(), headers[k:k1].tobytes(), places[p:p1].tobytes(), data[r * size : r1 * size]
                )
            )
            k, p, r = k1, p1, r1
        return out

    def _wholes(
        self, commits: int, number: Index, slots: Index, held: Index, grown: Index, entities: Entities, counts: Index,
        positions: Index, table: Table,
    ) -> list[Writes]:
        """One write per entity: the rows that it held, with those of its first commit, ``counts`` of the ``positions`` each."""
        known, size, header = self._slots, self._layout.row_bytes, self._layout.header_bytes
        sizes = held + grown
        offsets = sizes.cumsum() - sizes
        values = np.empty((int(sizes.sum()), self._layout.width), np.int64)
        if len(entities.rows):
            by_slot = entities.slots[entities.whole].searchsorted(slots)
            kept = entities.held[entities.whole]
            values[spans(offsets, held)] = entities.rows.take(spans((kept.cumsum() - kept)[by_slot], held), axis=0)
        values[offsets.repeat(counts) + positions] = table
        stored, few = known.stored_rows[slots], known.event_bytes[slots]
        heads = np.empty(len(slots), HEAD)
        heads["expected"] = np.where(stored < 0, few, header + stored * size)
        heads["header"] = np.where(stored >= 0, header, np.where(few > 0, event_form.HEADER.itemsize, 0))
        heads["patches"], heads["ttl_ms"], heads["renew_ms"] = WHOLE, self.life_ms, 0
        places = np.zeros(len(slots), PLACE)
        places["size"] = header + sizes * size
        old = known.headers[slots]
        checked = np.arange(old.shape[1]) < heads["header"][:, np.newaxis]
        new = state.headers(self._layout, known.partition[slots], known.horizon[slots], known.frontiers[slots])
        known.headers[slots, :header] = new
        known.event_bytes[slots] = 0
        keys = tuple(map(known.keys.__getitem__, slots.tolist()))
        begun, ended = (offsets * size).tolist(), ((offsets + sizes) * size).tolist()
        data, fronts = self._layout.to_bytes(values), new.tobytes()
        bounds = number.searchsorted(np.arange(1, commits + 1)).tolist()
        out, k = [], 0
        for k1 in bounds:
            parts: list[bytes] = []
            for i in range(k, k1):
                parts += (fronts[i * header : (i + 1) * header], data[begun[i] : ended[i]])
            out.append(
                Writes(
                    keys[k:k1], heads[k:k1].tobytes(), old[k:k1][checked[k:k1]].tobytes(), places[k:k1].tobytes(), b"".join(parts)
                )
            )
            k = k1
        return out


def _in_order(touched: Touched) -> Index:
    """(k,) the rows by commit, slot and position."""
    row = (touched.slots << POSITION_BITS) | touched.positions
    if (row[1:] >= row[:-1]).all():                                # most often: rows come by slot, then by start
        return in_order(touched.commits)
    return in_order(touched.commits, in_order(touched.slots, in_order(touched.positions)))
