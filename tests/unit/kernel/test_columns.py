from __future__ import annotations

import numpy as np
from unit.kernel.worlds import LIFETIME, SECOND, X, Y, aggregation, sliding, source, tumbling, view

from featureflow.define.spec import Call, Literal, View, Window
from featureflow.kernel.columns import HEADER, Layout
from featureflow.kernel.partial.basic import Count
from featureflow.kernel.tile import LIFETIME_US

SOURCE = source()
POSITIVE = Call("gt", (X, Literal(value=0.0)))


def layout(*ops: str, **how: object) -> Layout:
    return Layout.of(view([aggregation(op, [sliding(600)], name=f"{op}{i}", **how) for i, op in enumerate(ops)], [SOURCE]), SOURCE)  # type: ignore[arg-type]


def test_aggregations_share_what_they_have_in_common() -> None:
    assert layout("sum", "mean").partials == layout("mean").partials
    assert len(layout("count", "sum", "mean", "stddev", "min", "max").partials) == 5


def test_state_of_last_and_last_n_keeps_the_layout_that_it_had_before_entries_could_hold_more() -> None:
    old = view(
        [
            aggregation("last", [sliding(600)]), aggregation("last_n", [LIFETIME], size=2, value=Y, where=POSITIVE),
            aggregation("mean", [sliding(600)]),
        ],
        [SOURCE], ttl_s=3600,
    )  # fmt: skip
    of = Layout.of(old, SOURCE)
    assert (old.version, of.id) == ("4d9d34128f", 0x2DB77199706846DE)
    assert of.names[8:11] == ("p3_time_0", "p3_position_0", "p3_value_0")


def test_how_many_values_of_a_required_field_is_how_many_events() -> None:
    assert [p for p in layout("count", "mean").partials if isinstance(p, Count)] == [Count(None, None)]
    assert sum(isinstance(p, Count) for p in layout("count", "mean", value=Y).partials) == 2      # y may be null


def test_another_condition_is_another_partial() -> None:
    both = view([aggregation("mean", [sliding(600)], name="a"), aggregation("mean", [sliding(600)], where=POSITIVE, name="b")], [SOURCE])
    assert len(Layout.of(both, SOURCE).partials) == 4


def test_a_row_is_a_table_of_int64_without_a_copy() -> None:
    of = layout("mean", "stddev", "max", "last_n", size=3)
    rows = np.zeros(2, of.dtype)
    of.table(rows)[1, of.t_max] = 7
    assert rows["t_max"].tolist() == [0, 7]
    assert of.row_bytes == rows.itemsize == 8 * len(of.names)
    assert of.rows(of.table(rows)).tobytes() == rows.tobytes()
    assert sorted(place for places in of.positions.values() for place in places) == [
        at for at, name in enumerate(of.names) if name not in ("start", "level", "t_max")
    ]


def test_levels_are_the_tiles_of_the_windows_finest_first() -> None:
    declared = view([aggregation("count", [sliding(86_400), sliding(600), tumbling(10), LIFETIME])], [SOURCE])
    of = Layout.of(declared, SOURCE)
    assert of.levels == (10 * SECOND, 3600 * SECOND, LIFETIME_US)
    assert of.header_bytes == HEADER.itemsize + 16


def ttl_of(*windows: Window, ttl_s: int | None = None, op: str = "count") -> int:
    return Layout.of(view([aggregation(op, windows)], [SOURCE], ttl_s=ttl_s), SOURCE).ttl_ms


def test_a_value_lives_as_long_as_a_window_may_need_it() -> None:
    disorder_and_future = 90
    assert ttl_of(sliding(600)) == (600 + 2 * 10 + disorder_and_future) * 1000
    assert ttl_of(sliding(600), LIFETIME) == 0
    assert ttl_of(sliding(600), LIFETIME, ttl_s=3600, op="last") == (3600 + 2 * 10 + disorder_and_future) * 1000


def test_a_lifetime_total_is_never_dropped_behind_the_back_of_its_entity() -> None:
    assert ttl_of(sliding(600), LIFETIME, ttl_s=3600, op="sum") == 0


def test_the_id_changes_with_the_meaning_and_with_nothing_else() -> None:
    assert layout("mean").id == layout("mean").id
    different = [layout("mean"), layout("sum", "max"), layout("mean", where=POSITIVE), layout("mean", value=Y), layout("last_n", size=2)]
    assert len({of.id for of in different}) == len(different)
    other_version: View = view([aggregation("mean", [sliding(600)])], [source(disorder_s=61)])
    assert Layout.of(other_version, source(disorder_s=61)).id != layout("mean").id


def test_it_names_the_fields_that_must_be_decoded() -> None:
    of = layout("mean", where=Call("eq", (Y, Literal(value=1.0))))
    assert of.value_fields == ("x", "y") or set(of.value_fields) == {"x", "y"}
    assert set(of.fields) == {"user", "x", "y"}
