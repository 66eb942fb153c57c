"""Rows to bytes and back.

One state value is a header and then rows in order of arrival, little-endian:

    format u16 | levels u8 | 0 u8 | owner i32 | layout id u64 | horizon i64 | frontier i64 per level above the finest | rows

``owner`` is the partition that the rows were folded from. Rows that ended at or before ``horizon`` may have been dropped;
events before a level's frontier are in rows of that level or above (``kernel.rollup``). Either is NO_TIME_US before the first roll-up.
A value of few events holds these instead (``kernel.event_form``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from featureflow.clock import NO_TIME_US
from featureflow.errors import StateError
from featureflow.kernel import event_form
from featureflow.kernel.columns import FORMAT, HEADER, Layout, Rows
from featureflow.kernel.event_form import Kept

Int = NDArray[np.int64]

_OF_ROWS = FORMAT.to_bytes(2, "little")
_NO_FRONTIER = NO_TIME_US.to_bytes(8, "little", signed=True)


@dataclass(frozen=True)
class States:
    """The rows of n entities from one source, and for each state value (b of them) what its header says.

    Rows of one entity stand together, in entity order; those of different partitions are not merged.
    """

    rows: Rows                             # (k,)
    entity: Int                            # (k,) which entity each row belongs to, nondecreasing
    count: int                             # n
    blob_entity: Int                       # (b,)
    owners: Int                            # (b,) the partition each value was folded from
    horizons: Int                          # (b,)
    frontiers: Int                         # (b, levels - 1)
    cells: tuple[States, ...] = ()         # of ``Layout.cells``, in their order

    @staticmethod
    def of_rows(layout: Layout, rows: Rows, entity: Int, n: int) -> States:
        """Rows that were never rolled up: of training sets and the audit."""
        none = np.zeros(0, np.int64)
        return States(rows, entity, n, none, none, none, np.zeros((0, len(layout.levels) - 1), np.int64))


def rolled_up_past(layout: Layout, entities: Int) -> StateError:
    """The refusal of instants that states cannot answer exactly any more; ``entities`` (k,): whose, by their places."""
    return StateError(
        f"{layout.view_id} from {layout.source} was rolled up past the instant asked for, for the entities at "
        f"{sorted(set(entities.tolist()))}"
    )


def encode(layout: Layout, owner: int, horizon: int, frontiers: Int, rows: Rows) -> bytes:
    """The bytes of one state value. ``frontiers`` (levels - 1,), finest first."""
    return header(layout, owner, horizon, frontiers) + layout.to_bytes(layout.table(rows))


def header(layout: Layout, owner: int, horizon: int, frontiers: Int) -> bytes:
    """The first ``layout.header_bytes`` bytes of a state value."""
    return headers(layout, np.array([owner]), np.array([horizon]), np.asarray(frontiers)[np.newaxis]).tobytes()


def headers(layout: Layout, owners: Int, horizons: Int, frontiers: Int) -> NDArray[np.uint8]:
    """(k, ``layout.header_bytes``) headers of k state values. ``frontiers`` (k, levels - 1)."""
    out = np.zeros(len(owners), _headers(layout))
    fixed = out["fixed"]
    fixed["format"], fixed["levels"], fixed["owner"] = FORMAT, len(layout.levels), owners
    fixed["layout"], fixed["horizon"] = layout.id, horizons
    out["frontiers"] = frontiers
    return out.view(np.uint8).reshape(len(owners), layout.header_bytes)


def _headers(layout: Layout) -> np.dtype[np.void]:
    return np.dtype([("fixed", HEADER), ("frontiers", "<i8", (len(layout.levels) - 1,))])


def parse(layout: Layout, blobs: Sequence[Sequence[bytes | None]]) -> States:
    """Read state values: the outer sequence is entities, the inner one partitions (one, where keyed).

    Where the layout has cells, the inner one is the partitions of the layout itself, then those of each of its cells. A value of few
    events (``kernel.event_form``) is read as the rows and cells that each of them is: what is read is of no use but to finalize.

    Raises StateError naming the view and what is wrong; of which entity, one that is parsed alone tells.
    """
    if not layout.cells:
        return _read(layout, blobs, event_form.lifted)[0]
    share = len(layout.all)
    each = [[parts[k * len(parts) // share : (k + 1) * len(parts) // share] for parts in blobs] for k in range(share)]
    rows, few = _read(layout, each[0], event_form.lifted)
    cells = (_read_cells(one, each[k], few, event_form.lifted) for k, one in enumerate(layout.cells, 1))
    return replace(rows, cells=tuple(cells))


def parse_rows(layout: Layout, blobs: Sequence[Sequence[bytes | None]]) -> States:
    """As ``parse``, of the values of this layout alone, without its cells, and no two rows of a value of few events are of one tile."""
    return _read(layout, blobs, event_form.merged)[0]


def parse_cells(layout: Layout, cells: Layout, blobs: Sequence[Sequence[bytes | None]], beside: Sequence[bytes | None]) -> States:
    """As ``parse_rows``, of the values of one of the layout's cells, and of the events in those of the layout itself ``beside``."""
    held = [(i, blob) for i, blob in enumerate(beside) if blob and blob[0] == event_form.FORMAT]
    few = _few(layout, [i for i, _ in held], [blob for _, blob in held]) if held else None
    return _read_cells(cells, blobs, few, event_form.merged)


@dataclass(frozen=True)
class _Few:
    """Values that hold events: b of them."""

    entity: Int                            # (b,)
    kept: Kept


Lift = Callable[[Layout, Kept], tuple[Rows, NDArray[np.intp]]]   # and the value that each row is of, nondecreasing


def _read(layout: Layout, blobs: Sequence[Sequence[bytes | None]], lift: Lift) -> tuple[States, _Few | None]:
    size, row_bytes = layout.header_bytes, layout.row_bytes
    heads: list[bytes | memoryview] = []
    bodies: list[bytes | memoryview] = []
    owners: list[int] = []
    few: list[tuple[int, bytes]] = []      # the place of each among the others
    for i, parts in enumerate(blobs):
        for blob in parts:
            if not blob:
                continue
            if blob[0] == event_form.FORMAT:
                few.append((len(owners), blob))
                heads.append(b"")
                bodies.append(b"")
            elif len(blob) < size or (len(blob) - size) % row_bytes:
                raise StateError(
                    f"the state of {layout.view_id} from {layout.source} has {len(blob)} bytes: "
                    f"not a header of {size} and rows of {row_bytes}. {_rebuild(layout)}"
                )
            else:
                view = memoryview(blob)
                heads.append(view[:size])
                bodies.append(view[size:])
            owners.append(i)
    found = None
    if few:
        found = _few(layout, [owners[place] for place, _ in few], [blob for _, blob in few])
        rows, of = lift(layout, found.kept)
        data, ends = layout.to_bytes(layout.table(rows)), np.searchsorted(of, np.arange(len(few)), side="right").tolist()
        begin, none = 0, _NO_FRONTIER * (len(layout.levels) - 1)
        for (place, blob), end in zip(few, ends, strict=True):
            heads[place] = _OF_ROWS + blob[len(_OF_ROWS) : HEADER.itemsize] + none
            bodies[place] = data[begin * row_bytes : end * row_bytes]
            begin = end
    fixed = (extended := np.frombuffer(b"".join(heads), _headers(layout)))["fixed"]
    _check(layout, fixed, FORMAT)
    blob_entity = np.array(owners, np.int64)
    lengths = np.array([len(body) for body in bodies], np.int64) // row_bytes
    states = States(
        layout.from_bytes(b"".join(bodies)),
        np.repeat(blob_entity, lengths),
        len(blobs),
        blob_entity,
        fixed["owner"].astype(np.int64),
        fixed["horizon"],
        extended["frontiers"],
    )
    return states, found


def _read_cells(layout: Layout, blobs: Sequence[Sequence[bytes | None]], few: _Few | None, lift: Lift) -> States:
    """With the cells that events beside them are."""
    states = _read(layout, blobs, lift)[0]
    if few is None:
        return states
    rows, of = lift(layout, few.kept)
    entity = np.concatenate((states.entity, few.entity[of]))
    order = np.argsort(entity, kind="stable")
    return replace(states, rows=np.concatenate((states.rows, rows)).take(order), entity=entity[order])


def _few(layout: Layout, entities: list[int], blobs: list[bytes]) -> _Few:
    size = event_form.HEADER.itemsize
    if min(map(len, blobs)) < size:
        raise StateError(
            f"the state of {layout.view_id} from {layout.source} has {min(map(len, blobs))} bytes: "
            f"not a header of {size}. {_rebuild(layout)}"
        )
    heads = np.frombuffer(b"".join([blob[:size] for blob in blobs]), event_form.HEADER)
    _check(layout, heads, event_form.FORMAT)
    try:
        kept = event_form.decode(
            layout, [blob[size:] for blob in blobs], heads["owner"].astype(np.int64), heads["time_us"], heads["offset"]
        )
    except ValueError as error:
        raise StateError(f"the state of {layout.view_id} from {layout.source} holds no events: {error}. {_rebuild(layout)}") from error
    return _Few(np.array(entities, np.int64), kept)


def _rebuild(layout: Layout) -> str:
    return f"The value was damaged or written by something else. Run `featureflow rebuild {layout.view_id.partition('@')[0]}`"


def _check(layout: Layout, fixed: NDArray[np.void], form: int) -> None:
    wrong = (fixed["format"] != form) | (fixed["layout"] != layout.id) | (fixed["levels"] != len(layout.levels))
    if wrong.any():
        i = int(np.flatnonzero(wrong)[0])
        raise StateError(
            f"the state of {layout.view_id} from {layout.source} has format {fixed['format'][i]} and layout "
            f"{fixed['layout'][i]:016x}; expected {form} and {layout.id:016x}. {_rebuild(layout)}"
        )
