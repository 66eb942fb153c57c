"""Finalized values of one view for the entities of a turn, with what was lost or old marked as such."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

import numpy as np
import structlog
from numpy.typing import NDArray

from featureflow.clock import NO_TIME_US
from featureflow.kernel.finalize import NO_TEXTS, Status, Texts, Values
from featureflow.kernel.state import parse
from featureflow.kernel.tile import LIFETIME_US
from featureflow.reading.fetch import Reading
from featureflow.reading.finalized import Finalized, by_source, compute
from featureflow.reading.plan import ViewPlan

log = structlog.get_logger("featureflow.reading")


@dataclass(frozen=True, slots=True)
class Features:
    """n entities. ``values`` float64 (n, width), ``statuses`` int8 (n, F), ``event_times_us`` int64 (n, F), in the order of ``ids``.

    ``texts``: the values of those features that have strings, as in ``kernel.finalize.Values``.
    """

    plan: ViewPlan
    ids: list[str | int | None]
    values: NDArray[np.float64]
    statuses: NDArray[np.int8]
    event_times_us: NDArray[np.int64]
    places: list[int]  # which of the standings is each id's
    standings: list[dict[str, dict[int, int]]]  # source -> partition -> offset, of each bucket that was read
    degraded: tuple[str, ...] = ()
    lost: bool = False  # some value here has the status missing
    corrupt: dict[int, str] = field(default_factory=dict)  # row -> what is wrong with its state
    unanswerable: dict[int, str] = field(
        default_factory=dict
    )  # row -> why its state has no exact answer at that instant
    texts: Texts = field(default_factory=lambda: NO_TEXTS)

    def applied(self, row: int) -> dict[str, dict[int, int]]:
        """Source -> partition -> the offset up to which events are counted in this row."""
        return self.standings[self.places[row]] if self.standings and self.places else {}

    def shown(self, row: int, feature: int) -> float | str | list[float | str | None] | None:
        """One feature's value for people to read: a list where it is a sequence, None where a string is undefined."""
        return shown(self.plan, self, row, feature)


def shown(plan: ViewPlan, values: Values | Features, row: int, feature: int) -> float | str | list[float | str | None] | None:
    """One feature's value for people to read: a list where it is a sequence, None where a string is undefined."""
    declared = plan.view.features[feature]
    cells = values.texts[feature][row] if declared.is_text else values.values[row, plan.columns[feature]]
    found = cells.tolist()
    return found if declared.is_sequence else found[0]  # type: ignore[no-any-return]


def finalize(reading: Reading, q_us: int, finalized: Finalized | None = None) -> Features:
    """What the view's features are at ``q_us``, from this reading alone. ``finalized``: remembers what was computed before.

    A feature of a source whose offset record is absent or dirty is ``missing`` and takes its default; of one that is not known to
    count all that the log held a while ago it is ``stale`` and keeps its value, which is right for the ``applied`` offsets named.
    Never raises for damaged state, or state that has no exact answer at ``q_us``: those entities are ``missing``. Raises only where
    the view cannot be computed for any entity.
    """
    plan = reading.plan
    done = (compute if finalized is None else finalized.compute)(plan, reading.ids, reading.blobs, q_us)
    values, corrupt, unanswerable = done.values, done.corrupt, done.unanswerable
    missing = _where([standing.missing for standing in reading.standings])
    stale = _where([standing.stale for standing in reading.standings])
    standings = [standing.applied for standing in reading.standings]
    if not (missing or stale or corrupt or unanswerable):
        return Features(
            plan, reading.ids, values.values, values.statuses, values.event_times_us, reading.places, standings, texts=values.texts
        )
    marked = values.copy()
    of_rows, damaged = np.array(reading.places, np.intp), np.array(sorted({*corrupt, *unanswerable}), np.intp)
    for index, source in enumerate(plan.feature_source):
        if source in missing:
            _lose(plan, marked, np.flatnonzero(np.isin(of_rows, missing[source])), index)
        if source in stale:
            marked.statuses[np.isin(of_rows, stale[source]), index] = Status.STALE
        _lose(plan, marked, damaged, index)
    flags = (("missing", missing), ("stale", stale), ("corrupt", corrupt), ("unanswerable", unanswerable))
    return Features(
        plan,
        reading.ids,
        marked.values,
        marked.statuses,
        marked.event_times_us,
        reading.places,
        standings,
        tuple(f"{plan.view.name}:{what}" for what, those in flags if those),
        bool(missing or len(damaged)),
        corrupt,
        unanswerable,
        marked.texts,
    )


def finalize_or_missing(reading: Reading, q_us: int, finalized: Finalized | None = None) -> Features:
    """As ``finalize``; a view that cannot be computed for any entity is missing, so that others are not taken along."""
    try:
        return finalize(reading, q_us, finalized)
    except Exception:
        log.exception("view_failed", view=reading.plan.view.id, entities=len(reading.ids))
        return nothing(reading.plan, reading.ids)


def no_exact_answer(found: Features, reading: Reading, q_us: int, now_us: int) -> dict[int, str]:
    """Rows of which the state says nothing exact at ``q_us``, an instant that somebody named: row -> what to say of it."""
    return found.unanswerable | expired(reading, q_us, now_us) | newer(reading, q_us, found.corrupt)


def newer(reading: Reading, q_us: int, corrupt: Container[int] = ()) -> dict[int, str]:
    """Entities with an event after ``q_us`` where nothing can leave it out: row -> what to say of it.

    A source of which the view has no window but ``lifetime`` is kept as one row, of all its events. It answers for now, and for an
    instant from its newest event on.
    """
    found: dict[int, str] = {}
    for source, blobs in by_source(reading.plan, reading.blobs):
        layout = source.layout
        if layout.finest != LIFETIME_US:
            continue
        states = parse(layout, [of if row not in corrupt else (None,) * len(of) for row, of in enumerate(blobs)])
        ahead = layout.table(states.rows)[:, layout.t_max] > q_us
        for row in states.entity[ahead].tolist():
            found.setdefault(
                row, f"{layout.view_id} has folded an event from {source.name} that is newer, and keeps all of them in one row"
            )
    return found


def expired(reading: Reading, q_us: int, now_us: int) -> dict[int, str]:
    """Entities of which a state key is absent that may have lived long enough ago for ``q_us`` only: row -> what to say of it.

    An event that counts at q was committed at its time less the source's ``future`` or after; its key has lived on for
    ``Layout.ttl_ms``, which is until q + ``disorder`` + one tile at least. Since then that the key is absent says nothing of q.
    """
    found: dict[int, str] = {}
    for source, of in by_source(reading.plan, reading.blobs):
        layout = source.layout
        forgotten_us = now_us - layout.disorder_us - max(0 if level == LIFETIME_US else level for level in layout.levels)
        if layout.ttl_ms == 0 or q_us >= forgotten_us:
            continue
        for row, blobs in enumerate(of):
            if reading.ids[row] is not None and not all(blobs):
                found.setdefault(
                    row, f"{layout.view_id} has no state from {source.name} in some partition, and may have had some that counts then"
                )
    return found


def nothing(plan: ViewPlan, ids: list[str | int | None]) -> Features:
    """Every feature missing, with its default: the store could not be read."""
    n, count = len(ids), len(plan.references)
    return Features(
        plan,
        ids,
        np.tile(plan.default_row, (n, 1)),
        np.full((n, count), Status.MISSING, np.int8),
        np.full((n, count), NO_TIME_US, np.int64),
        [0] * n,
        [],
        (f"{plan.view.name}:missing",),
        True,
        texts=plan.kernel.default_texts(n),
    )


def _where(sources: list[frozenset[str]]) -> dict[str, list[int]]:
    """Source name -> the standings that name it; ``sources``: what each of them names."""
    found: dict[str, list[int]] = {}
    for place, names in enumerate(sources if any(sources) else ()):
        for name in names:
            found.setdefault(name, []).append(place)
    return found


def _lose(plan: ViewPlan, marked: Values, rows: NDArray[np.intp], index: int) -> None:
    span = plan.columns[index]
    marked.values[rows, span] = plan.default_row[span]
    if index in marked.texts:
        marked.texts[index][rows] = plan.view.features[index].aggregation.default
    marked.statuses[rows, index] = Status.MISSING
    marked.event_times_us[rows, index] = NO_TIME_US
