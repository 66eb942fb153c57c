"""A slab's folded rows as what commits write: patches of the rows that were touched, and whole values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featureflow.ingest.arena import Table, spans
from featureflow.ingest.slots import Index, Slots
from featureflow.kernel import event_form, state
from featureflow.kernel.columns import Layout
from featureflow.store.online.writes import HEAD, PLACE, WHOLE, Writes

RENEW_SHARE = 8

# What touched rows are sorted by: the commit, the slot, and the row's position, in one int64 where the commits are no more than fit.
POSITION_BITS = 28
SLOT_BITS = 24
COMMITS = 1 << (63 - POSITION_BITS - SLOT_BITS)


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
        order = _in_order(touched, commits)
        number, slots, positions = touched.commits[order], touched.slots[order], touched.positions[order]
        begins = changes(slots)
        begins[1:] |= number[1:] != number[:-1]
        pairs = np.flatnonzero(begins)                             # (entity, commit): where its rows begin
        entity = np.searchsorted(entities.slots, slots[pairs])
        grown = np.add.reduceat(touched.fresh[order].astype(np.int64), pairs)
        by_entity = np.argsort(entity, kind="stable")
        first = np.flatnonzero(changes(entity[by_entity]))         # each entity's first commit
        before = np.cumsum(grown[by_entity]) - grown[by_entity]
        held = np.empty(len(pairs), np.int64)                      # rows that the key has when the commit comes
        held[by_entity] = before + np.repeat(entities.held - before[first], np.diff(first, append=len(pairs)))
        whole = np.zeros(len(pairs), np.bool_)
        whole[by_entity[first]] = entities.whole
        table = touched.table[order]
        if not whole.any():
            writes = self._patches(commits, number, slots, positions, begins, held, entities.whole[entity], table)
        else:
            of_whole = whole[np.cumsum(begins) - 1]
            rest = np.flatnonzero(~of_whole)
            each = self._wholes(commits, number[pairs[whole]], slots[pairs[whole]], held[whole], grown[whole], entities,
                                np.diff(pairs, append=len(order))[whole], positions[of_whole], table[of_whole])
            patched = self._patches(commits, number[rest], slots[rest], positions[rest], begins[rest], held[~whole],
                                    entities.whole[entity[~whole]], table[rest])
            writes = [a + b for a, b in zip(patched, each, strict=True)]
        last = np.append(first[1:], len(pairs)) - 1
        rows = np.bincount(number, minlength=commits).tolist()
        return list(zip(writes, rows, strict=True)), number[pairs[by_entity[last]]]

    def _patches(
        self, commits: int, number: Index, slots: Index, positions: Index, begins: NDArray[np.bool_], held: Index,
        renewed: NDArray[np.bool_], table: Table,
    ) -> list[Writes]:
        """One write per entity and commit; rows that adjoin share a patch. ``held`` and ``renewed`` are one for each begin."""
        if len(slots) == 0:
            return [Writes()] * commits
        known, size, header = self._slots, self._layout.row_bytes, self._layout.header_bytes
        firsts = np.flatnonzero(begins | changes(positions - np.arange(len(positions))))
        places = np.empty(len(firsts), PLACE)
        places["position"] = header + positions[firsts] * size
        places["size"] = np.diff(firsts, append=len(slots)) * size
        starts = np.flatnonzero(begins[firsts])
        at = firsts[starts]
        entities = slots[at]
        heads = np.empty(len(entities), HEAD)
        heads["expected"] = header + held * size
        heads["header"] = header
        heads["patches"] = np.diff(starts, append=len(firsts))
        heads["ttl_ms"] = self.life_ms
        heads["renew_ms"] = np.where(renewed, 0, known.renew_ms[entities])   # after a whole value of the same batch: when is not known
        keys = tuple(map(known.keys.__getitem__, entities.tolist()))
        headers, data = known.headers[entities, :header], self._layout.to_bytes(table)
        if commits == 1:
            return [Writes(keys, heads.tobytes(), headers.tobytes(), places.tobytes(), data)]
        ends = np.arange(1, commits + 1)
        bounds = np.stack([np.searchsorted(n, ends) for n in (number[at], number[firsts], number)], axis=1).tolist()
        out, k, p, r = [], 0, 0, 0
        for k1, p1, r1 in bounds:
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
        offsets = np.cumsum(sizes) - sizes
        values = np.empty((int(sizes.sum()), self._layout.width), np.int64)
        by_slot = np.searchsorted(entities.slots[entities.whole], slots)
        kept = entities.held[entities.whole]
        values[spans(offsets, held)] = entities.rows[spans((np.cumsum(kept) - kept)[by_slot], held)]
        values[np.repeat(offsets, counts) + positions] = table
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
        bounds = np.searchsorted(number, np.arange(1, commits + 1)).tolist()
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


def _in_order(touched: Touched, commits: int) -> Index:
    """(k,) the rows by commit, slot and position."""
    if commits > COMMITS:                                          # seldom: many rows of each event, or many views
        return np.lexsort((touched.positions, touched.slots, touched.commits))
    return np.argsort((touched.commits << (POSITION_BITS + SLOT_BITS)) | (touched.slots << POSITION_BITS) | touched.positions)


def changes(ordered: Index) -> NDArray[np.bool_]:
    """(n,) where a value differs from the one before it; the first does."""
    different = np.empty(len(ordered), np.bool_)
    different[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=different[1:])
    return different
