"""Every partial of the table is an exact commutative monoid, and survives its bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.kernel.worlds import KIND, NASTY, NOON, SECOND, X, Y, aggregation, events_of, sliding, source, view

from featureflow.define.spec import Payload
from featureflow.errors import StateError
from featureflow.kernel import fold as folding
from featureflow.kernel.columns import Layout, Rows
from featureflow.kernel.fold import combine, fold, lift, merge
from featureflow.kernel.partial.base import LOWEST, Partial
from featureflow.kernel.partial.basic import code, number
from featureflow.kernel.partial.entries import Entries, position
from featureflow.kernel.partial.newest import LastN
from featureflow.kernel.partial.table import PARTIALS
from featureflow.kernel.state import encode, parse
from oracle import Record

SOURCE = source()
PLAIN = Layout.of(view([aggregation("count", [sliding(600)])], [SOURCE]), SOURCE)
VALUES = st.lists(NASTY | st.none(), min_size=1, max_size=12)


ENTRIES = [kind for kind in PARTIALS if issubclass(kind, Entries)]
NUMBERS = {"size": 3, "by": X}
TEXTS = {**NUMBERS, "value": KIND, "width": 12}
SEVERAL = {**NUMBERS, "entry": (Payload(Y), Payload(KIND, 12), Payload(X))}
CASES = [
    *(pytest.param(kind, NUMBERS, id=kind.__name__) for kind in PARTIALS),
    *(pytest.param(kind, TEXTS, id=f"{kind.__name__}-of-strings") for kind in ENTRIES),
    *(pytest.param(kind, SEVERAL, id=f"{kind.__name__}-of-several") for kind in ENTRIES),
]
every_partial = pytest.mark.parametrize(("kind", "of"), CASES)


def layout_of(kind: type[Partial], of: dict[str, Any]) -> Layout:
    declared = msgspec.structs.replace(aggregation("last_n", [sliding(600)], **of), half_life_us=60 * SECOND)
    return replace(PLAIN, partials=(kind.of(declared),))


def events(values: list[float | None], first: int = 0):
    times = [NOON + (i * 7919 % 5) * SECOND for i in range(len(values))]   # with ties
    return events_of(
        [
            Record("click", 0, first + i, t, t, {"at": float(t), "user": "u1", "x": v, "y": v, "kind": None if v is None else f"{v:.4g}"})
            for i, (v, t) in enumerate(zip(values, times, strict=True))
        ],
        0,
    )


def row(layout: Layout, values: list[float | None], first: int = 0) -> Rows:
    """All of them as one row."""
    return fold(layout, events(values, first), np.arange(len(values)), np.zeros(1, np.int64))


@every_partial
@given(a=VALUES, b=VALUES, c=VALUES)
@settings(max_examples=40, deadline=None)
def test_merging_is_associative_commutative_and_has_an_identity(
    kind: type[Partial], of: dict[str, Any], a: list[float], b: list[float], c: list[float]
) -> None:
    layout = layout_of(kind, of)
    x, y, z = row(layout, a), row(layout, b, 100), row(layout, c, 200)
    assert combine(layout, combine(layout, x, y), z).tobytes() == combine(layout, x, combine(layout, y, z)).tobytes()
    assert combine(layout, x, y).tobytes() == combine(layout, y, x).tobytes()
    nothing = layout.rows(layout.identity[np.newaxis])
    assert combine(layout, x, nothing).tobytes() == combine(layout, nothing, x).tobytes() == x.tobytes()


@every_partial
@given(values=VALUES, data=st.data())
@settings(max_examples=40, deadline=None)
def test_order_and_batches_do_not_change_a_bit_of_a_row(
    kind: type[Partial], of: dict[str, Any], values: list[float], data: st.DataObject
) -> None:
    layout = layout_of(kind, of)
    whole = row(layout, values)
    order = np.array(data.draw(st.permutations(range(len(values)))))
    assert fold(layout, events(values), order, np.zeros(1, np.int64)).tobytes() == whole.tobytes()

    cuts = data.draw(st.sets(st.integers(1, len(values)).filter(lambda c: c < len(values))))
    starts = np.array([0, *sorted(cuts)])
    pieces = fold(layout, events(values), order, starts)
    assert merge(layout, pieces, np.arange(len(pieces)), np.zeros(1, np.int64)).tobytes() == whole.tobytes()
    one_by_one = pieces[:1]
    for i in range(1, len(pieces)):
        one_by_one = combine(layout, one_by_one, pieces[i:i + 1])
    assert one_by_one.tobytes() == whole.tobytes()

    lifted = lift(layout, events(values))
    lifted["start"] = 0
    assert merge(layout, lifted, order, np.zeros(1, np.int64)).tobytes() == whole.tobytes()


@every_partial
@given(rows=st.lists(VALUES, max_size=4))
@settings(max_examples=30, deadline=None)
def test_rows_survive_their_bytes(kind: type[Partial], of: dict[str, Any], rows: list[list[float]]) -> None:
    layout = layout_of(kind, of)
    stacked = np.concatenate([layout.empty(), *(row(layout, values) for values in rows)])
    states = parse(layout, [[encode(layout, 5, 17, np.zeros(0, np.int64), stacked)]])
    assert states.rows.tobytes() == stacked.tobytes()
    assert states.owners.tolist() == [5]
    assert states.horizons.tolist() == [17]


@pytest.mark.parametrize(("kind", "of"), CASES[: len(PARTIALS)])
def test_an_event_that_does_not_participate_leaves_no_trace_but_its_time(kind: type[Partial], of: dict[str, Any]) -> None:
    layout = layout_of(kind, of)
    if kind.of(aggregation("sum", [sliding(600)], **of)).value is not None:
        layout = replace(layout, partials=tuple(replace(p, value=X) for p in layout.partials))
    identity = layout.identity.copy()
    identity[layout.t_max] = NOON
    for outside in (None, 2.0**63, -(2.0**63)):
        assert layout.table(row(layout, [outside])).tolist() == [identity.tolist()]


@every_partial
def test_long_segments_are_cut_so_that_limbs_cannot_overflow(
    kind: type[Partial], of: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = layout_of(kind, of)
    values = [1e17, -3.5, 2.0**62, -1e17, 7.25, -(2.0**62), 0.1] * 3
    starts = np.array([0, 4, 5, 17])
    whole = fold(layout, events(values), np.arange(len(values)), starts)
    monkeypatch.setattr(folding, "ADDITIONS", 3)
    assert fold(layout, events(values), np.arange(len(values)), starts).tobytes() == whole.tobytes()


@given(st.lists(st.floats(allow_nan=False), min_size=2, max_size=20))
def test_codes_order_like_the_numbers_and_come_back(values: list[float]) -> None:
    array = np.array(values) + 0.0
    assert number(code(array)).tobytes() == array.tobytes()
    assert np.argsort(code(array), kind="stable").tolist() == np.argsort(array, kind="stable").tolist()
    assert code(array).min() > LOWEST


def test_ties_of_the_newest_break_on_partition_and_then_offset() -> None:
    places = np.concatenate((position(0, np.array([9, 3])), position(1, np.array([0]))))
    entries = np.stack((np.full(3, NOON), places, np.array([1.0, 2.0, 3.0]).view(np.int64)), axis=1)
    two = LastN(X, None, 2)
    assert two.kept(two.best(np.zeros(3, np.int64), entries, 1).reshape(1, 2, 3)).tolist() == [[3.0, 1.0]]


@pytest.mark.parametrize(("partition", "offset"), [(1 << 15, 0), (0, 1 << 48)])
def test_a_position_that_does_not_fit_is_refused_by_name(partition: int, offset: int) -> None:
    with pytest.raises(StateError, match=rf"partition {partition} .* offset {offset}"):
        position(partition, np.array([offset]))
