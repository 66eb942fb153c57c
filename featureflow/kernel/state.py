"""Rows to bytes and back.

One state value is a header and then rows in order of arrival, little-endian:

    format u16 | levels u8 | 0 u8 | owner i32 | layout id u64 | horizon i64 | frontier i64 per level above the finest | rows

``owner`` is the partition that the rows were folded from. Rows that ended at or before ``horizon`` may have been dropped;
events before a level's frontier are in rows of that level or above (``kernel.rollup``). Either is NO_TIME_US before the first roll-up.
A value of few events holds these instead (``kernel.event_form``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from featureflow.clock import NO_TIME_US
from featureflow.errors import StateError
from featureflow.kernel import event_form
from featureflow.kernel.columns import FORMAT, HEADER, Layout, Rows
from featureflow.kernel.event_form import Kept

Int = NDArray[np.int64]


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
        """Rows that were never rolled up: training, replay."""
        none = np.zeros(0, np.int64)
        return States(rows, entity, n, none, none, none, np.zeros((0, len(layout.levels) - 1), np.int64))


def rolled_up_past(layout: Layout, entities: Int) -> StateError:
    """The refusal of instants that states cannot answer exactly any more; ``entities`` (k,): whose, by their places."""
    return StateError(
        f"{layout.view_id} from {layout.source} was rolled up past the instant asked for, for the entities at "
        f"{sorted(set(entities.tolist()))}. Ask for a later instant, or have it answered from history"
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
    events (``kernel.event_form``) is read as the rows and cells that they make.

    Raises StateError naming the view and what is wrong; of which entity, one that is parsed alone tells.
    """
    if not layout.cells:
        return parse_rows(layout, blobs)
    share = len(layout.all)
    each = [[parts[k * len(parts) // share : (k + 1) * len(parts) // share] for parts in blobs] for k in range(share)]
    rows, few = _read(layout, each[0])
    cells = (parse_cells(layout, one, each[k], few) for k, one in enumerate(layout.cells, 1))
    return replace(rows, cells=tuple(cells))


def parse_rows(layout: Layout, blobs: Sequence[Sequence[bytes | None]]) -> States:
    """As ``parse``, of the values of this layout alone, without its cells."""
    return _read(layout, blobs)[0]


def parse_cells(layout: Layout, cells: Layout, blobs: Sequence[Sequence[bytes | None]], few: Few | None) -> States:
    """As ``parse``, of the values of one of the layout's cells, and of the events in those of the layout itself."""
    states = _read(cells, blobs)[0]
    return states if few is None else _with(states, cells, few)


@dataclass(frozen=True)
class Few:
    """Values that hold events: b of them."""

    entity: Int                            # (b,)
    heads: NDArray[np.void]                # (b,) of ``event_form.HEADER``
    kept: Kept


def few(layout: Layout, blobs: Sequence[bytes | None]) -> Few | None:
    """The values of the layout, one for each entity, that hold events; None: none does."""
    found = [(i, blob) for i, blob in enumerate(blobs) if blob and blob[0] == event_form.FORMAT]
    return _few(layout, [i for i, _ in found], [blob for _, blob in found]) if found else None


def _read(layout: Layout, blobs: Sequence[Sequence[bytes | None]]) -> tuple[States, Few | None]:
    size, row_bytes = layout.header_bytes, layout.row_bytes
    heads: list[memoryview] = []
    bodies: list[memoryview] = []
    owners: list[int] = []
    few_of: list[int] = []
    few_blobs: list[bytes] = []
    for i, parts in enumerate(blobs):
        for blob in parts:
            if not blob:
                continue
            if blob[0] == event_form.FORMAT:
                few_of.append(i)
                few_blobs.append(blob)
                continue
            if len(blob) < size or (len(blob) - size) % row_bytes:
                raise StateError(
                    f"the state of {layout.view_id} from {layout.source} has {len(blob)} bytes: "
                    f"not a header of {size} and rows of {row_bytes}. {_rebuild(layout)}"
                )
            view = memoryview(blob)
            heads.append(view[:size])
            bodies.append(view[size:])
            owners.append(i)
    rows = layout.from_bytes(b"".join(bodies))
    blob_entity = np.array(owners, np.int64)
    lengths = np.array([len(body) for body in bodies], np.int64) // row_bytes
    extended = np.frombuffer(b"".join(heads), _headers(layout))
    fixed = extended["fixed"]
    _check(layout, fixed, FORMAT)
    states = States(
        rows,
        np.repeat(blob_entity, lengths),
        len(blobs),
        blob_entity,
        fixed["owner"].astype(np.int64),
        fixed["horizon"],
        extended["frontiers"],
    )
    if not few_blobs:
        return states, None
    found = _few(layout, few_of, few_blobs)
    none = np.full((len(few_of), len(layout.levels) - 1), NO_TIME_US, np.int64)
    states = replace(
        _with(states, layout, found),
        blob_entity=np.concatenate((states.blob_entity, found.entity)),
        owners=np.concatenate((states.owners, found.heads["owner"].astype(np.int64))),
        horizons=np.concatenate((states.horizons, found.heads["horizon"])),
        frontiers=np.concatenate((states.frontiers, none)),
    )
    return states, found


def _few(layout: Layout, entities: list[int], blobs: list[bytes]) -> Few:
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
    return Few(np.array(entities, np.int64), heads, kept)


def _with(states: States, layout: Layout, few: Few) -> States:
    """With the rows that the events are."""
    rows, of = event_form.rows_of(layout, few.kept)
    entity = np.concatenate((states.entity, few.entity[of]))
    order = np.argsort(entity, kind="stable")
    return replace(states, rows=np.concatenate((states.rows, rows))[order], entity=entity[order])


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
