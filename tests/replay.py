"""Feature values from raw events: what the stream would have given, computed at once.

By the kernel's own pieces, for tests of everything that is built on them; ``test_replay`` holds it against an oracle that is not. The
verdicts on records are taken again, so the events must be those of whole partitions from their first offset on (or from where
``max_time_us`` says).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featureflow.clock import NO_TIME_US
from featureflow.define.spec import Source
from featureflow.kernel.accept import counted, judge
from featureflow.kernel.columns import START, Layout, Rows
from featureflow.kernel.dedupe import Ids
from featureflow.kernel.events import Events
from featureflow.kernel.expression import is_null
from featureflow.kernel.finalize import Values, ViewKernel
from featureflow.kernel.fold import lift_rows
from featureflow.kernel.state import States
from featureflow.kernel.tile import window_start

CHUNK_ROWS = 200_000  # lifted rows gathered at a time

Int = NDArray[np.int64]


def counting(layout: Layout, events: Events, source: Source, max_time_us: int = NO_TIME_US) -> Events:
    """The events of one partition that count for a view: ``accept.counted``, with an entity id, and no duplicates."""
    verdict = judge(events, max_time_us, source)
    counts = counted(layout, events, verdict, ~is_null(events.columns[layout.key_field]))
    if source.dedupe is not None:
        duplicate, _ = Ids(source).judge(events, layout.key_field, counts, verdict.running_max_us)
        counts &= ~duplicate
    return events.take(np.flatnonzero(counts))


def recompute(
    kernel: ViewKernel,
    sources: Mapping[str, Source],
    events: Mapping[str, Sequence[Events]],
    ids: Sequence[str | int],
    q_us: Int,
    applied: Mapping[str, Mapping[int, Int | int]],
) -> Values:
    """F for n rows: entity ``ids[i]`` at ``q_us[i]``, from the events below ``applied[source][partition]`` ((n,) or one offset for all).

    ``events[source]`` holds one ``Events`` per partition, in offset order. A partition absent from ``applied`` was not folded at all.
    """
    prepared: dict[str, list[list[_Lifted]]] = {}
    for name, layout in kernel.layouts.items():
        counted = [
            (counting(layout, part, sources[name]), applied.get(name, {}).get(part.partition, 0)) for part in events.get(name, ())
        ]
        prepared[name] = [[_Lifted.of(one, part, visible, len(q_us)) for part, visible in counted] for one in layout.all]
    parts = [
        kernel.finalize(
            {name: _states(kernel.layouts[name], lifted, ids[chunk], q_us[chunk], chunk) for name, lifted in prepared.items()},
            q_us[chunk],
        )
        for chunk in _chunks(prepared, ids)
    ]
    return Values.concat(parts) if parts else kernel.nothing()


@dataclass(frozen=True)
class _Lifted:
    """One partition's counting events as rows, by entity and offset."""

    rows: Rows
    starts: Int
    offsets: Int                           # of each row's event
    runs: dict[Any, tuple[int, int]]       # entity id -> its run of rows
    applied: Int                           # (n,)

    @staticmethod
    def of(layout: Layout, events: Events, applied: Int | int, n: int) -> _Lifted:
        keys = events.columns[layout.key_field].tolist()
        codes: dict[Any, int] = {}
        code = np.array([codes.setdefault(key, len(codes)) for key in keys], np.int64)
        order = np.argsort(code, kind="stable")
        ends = np.cumsum(np.bincount(code, minlength=len(codes))) if len(codes) else np.zeros(0, np.int64)
        events = events.take(order)
        rows, of = lift_rows(layout, events)
        ends = np.searchsorted(of, ends)
        runs = {key: (int(ends[i - 1]) if i else 0, int(ends[i])) for key, i in codes.items()}
        visible = np.broadcast_to(np.asarray(applied, np.int64), (n,))
        return _Lifted(rows, layout.table(rows)[:, START], events.offsets[of], runs, visible)


def _chunks(prepared: Mapping[str, list[list[_Lifted]]], ids: Sequence[Any]) -> Iterator[slice]:
    begin = gathered = 0
    for i, key in enumerate(ids):
        size = sum(
            run[1] - run[0] for each in prepared.values() for parts in each for part in parts if (run := part.runs.get(key))
        )
        if gathered and gathered + size > CHUNK_ROWS:
            yield slice(begin, i)
            begin, gathered = i, 0
        gathered += size
    if begin < len(ids):
        yield slice(begin, len(ids))


def _states(layout: Layout, lifted: list[list[_Lifted]], ids: Sequence[Any], q_us: Int, chunk: slice) -> States:
    rows, *cells = (_gather(one, parts, ids, q_us, chunk) for one, parts in zip(layout.all, lifted, strict=True))
    return replace(rows, cells=tuple(cells))


def _gather(layout: Layout, parts: list[_Lifted], ids: Sequence[Any], q_us: Int, chunk: slice) -> States:
    oldest = np.min([window_start(window, q_us) for window in layout.windows], axis=0)
    rows: list[Rows] = []
    entities: list[Int] = []
    for part in parts:
        for i, (key, q, applied) in enumerate(zip(ids, q_us.tolist(), part.applied[chunk].tolist(), strict=True)):
            if key not in part.runs:
                continue
            begin, end = part.runs[key]
            end = begin + int(np.searchsorted(part.offsets[begin:end], applied))
            starts = part.starts[begin:end]
            keep = np.flatnonzero((starts >= oldest[i]) & (starts <= q)) + begin
            rows.append(part.rows.take(keep))
            entities.append(np.full(len(keep), i, np.int64))
    if not rows:
        return States.of_rows(layout, layout.empty(), np.zeros(0, np.int64), len(q_us))
    entity = np.concatenate(entities)
    order = np.argsort(entity, kind="stable")
    return States.of_rows(layout, np.concatenate(rows).take(order), entity[order], len(q_us))


