"""A spine may come as a frame, a file or plain Python; each gives the same rows, and what is ambiguous is refused."""

from __future__ import annotations

import csv
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from featureflow.define.spec import Field
from featureflow.errors import RequestError
from featureflow.train.spine import Spine, read_spine

EAST = timezone(timedelta(hours=2))
AT = [datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, 2, 0, 0, 250_001, tzinfo=EAST), datetime(2024, 7, 1, tzinfo=UTC)]
AT_US = [1_704_067_200_000_000, 1_704_067_200_250_001, 1_719_792_000_000_000]
ROWS: list[dict[str, Any]] = [
    {"at": AT[0], "carrier": "AA", "airport": 7, "hour": 3, "night": True, "kind": "line", "label": 1.0, "other": "x"},
    {"at": AT[1], "carrier": "007", "airport": None, "hour": 4, "night": False, "kind": None, "label": 0.0, "other": "y"},
    {"at": AT[2], "carrier": None, "airport": 12, "hour": None, "night": None, "kind": "charter", "label": None, "other": "z"},
]
CONTEXT = {
    "hour": Field(name="hour", type="int"), "night": Field(name="night", type="bool"), "kind": Field(name="kind", type="str"),
}


def read(spine: object, **changed: Any) -> Spine:
    arguments: dict[str, Any] = {"join_keys": {"carrier": "str", "airport": "int"}, "context": CONTEXT, "instant": "at", "label": "label"}
    return read_spine(spine, **{**arguments, **changed})


def check(got: Spine) -> None:
    assert got.instants_us.tolist() == AT_US
    assert got.ids["carrier"].tolist() == ["AA", "007", None]
    np.testing.assert_array_equal(got.ids["airport"], [7, np.nan, 12])
    np.testing.assert_array_equal(got.context["hour"], [3, 4, np.nan])
    np.testing.assert_array_equal(got.context["night"], [1, 0, np.nan])
    assert got.context["kind"].tolist() == ["line", None, "charter"]
    np.testing.assert_array_equal(got.labels, [1, 0, np.nan])


def frame() -> pd.DataFrame:
    return pd.DataFrame(ROWS).assign(at=pd.to_datetime([a.isoformat() for a in AT], utc=True, format="ISO8601"))


def as_columns(at: list[Any]) -> dict[str, list[Any]]:
    return {**{name: [row[name] for row in ROWS] for name in ROWS[0]}, "at": at}


def test_rows_and_columns_of_plain_python() -> None:
    check(read(ROWS))
    check(read(as_columns(AT)))
    check(read(as_columns(AT_US)))
    check(read(as_columns([a.isoformat() for a in AT])))


def test_a_pandas_frame_with_nullable_or_plain_columns() -> None:
    check(read(frame()))
    check(read(frame().convert_dtypes()))


def test_an_arrow_table() -> None:
    check(read(pa.Table.from_pandas(frame())))


def test_a_parquet_file(tmp_path: Path) -> None:
    parquet.write_table(pa.Table.from_pandas(frame()), tmp_path / "spine.parquet")
    check(read(tmp_path / "spine.parquet"))


def test_a_csv_file_keeps_ids_that_look_like_numbers(tmp_path: Path) -> None:
    with (tmp_path / "spine.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(ROWS[0])
        for row in ROWS:
            writer.writerow([value.isoformat() if isinstance(value, datetime) else value for value in row.values()])
    check(read(str(tmp_path / "spine.csv")))


def test_a_label_and_request_inputs_are_optional() -> None:
    got = read([{"at": AT[0], "carrier": "AA"}], join_keys={"carrier": "str"}, context={}, label=None)
    assert got.labels is None
    assert got.context == {}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"at": datetime(2024, 1, 1)}, "has no time zone"),
        ({"at": "2024-01-01"}, "has no time zone"),
        ({"at": "yesterday"}, "RFC 3339"),
        ({"at": None}, "names no instant"),
        ({"at": 1.5}, "is a float"),
        ({"carrier": 7}, "row 1: 'carrier' is 7, a int; the definitions say str"),
        ({"airport": "LAX"}, "Write numbers"),
        ({"hour": 2.5}, "not whole"),
        ({"label": float("inf")}, "infinity"),
    ],
)
def test_what_is_ambiguous_or_of_a_wrong_type_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError) as caught:
        read([ROWS[0], {**ROWS[1], **change}])
    assert says in caught.value.detail


def test_a_vector_of_a_request_is_a_list_or_a_list_as_json(tmp_path: Path) -> None:
    context = {"image": Field(name="image", type="vector", size=3)}
    images = [[1, 2, 3], np.array([0.5, 1.5, 2.5]), None]
    got = read([{**row, "image": image} for row, image in zip(ROWS, images, strict=True)], context=context)
    expected = [[1.0, 2.0, 3.0], [0.5, 1.5, 2.5], [np.nan] * 3]
    np.testing.assert_array_equal(got.context["image"], expected)
    path = tmp_path / "spine.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["at", "carrier", "airport", "label", "image"])
        writer.writerows([["2024-01-01T00:00:00Z", "AA", 7, 1, text] for text in ("[1, 2, 3]", "[0.5,1.5,2.5]", "")])
    np.testing.assert_array_equal(read(path, context=context).context["image"], expected)
    for wrong, says in (
        ([1, 2], "no list of 3 finite numbers"), ("[1, 2", "no list of 3"), ([1, 2, np.inf], "no list of 3"), (5.0, "no list"),
        ({"sha256": "x", "numbers": 3}, "only the SHA-256 was logged"),
    ):
        with pytest.raises(RequestError, match=f"row 0: .*{says}"):
            read([{**ROWS[0], "image": wrong}], context=context)


def test_a_categorical_request_input_is_one_of_its_categories() -> None:
    kind = Field(name="kind", type="str", nullable=True, categories=("charter", "line"))
    assert read(ROWS, context={"kind": kind}).context["kind"].tolist() == ["line", None, "charter"]
    with pytest.raises(RequestError) as caught:
        read([ROWS[0], {**ROWS[1], "kind": "lime"}], context={"kind": kind})
    assert "row 1: 'kind' is 'lime', which is none of charter, line" in caught.value.detail


def test_a_frame_with_naive_instants_is_told_how_to_say_which_zone() -> None:
    naive = frame().assign(at=lambda f: f["at"].dt.tz_localize(None))
    with pytest.raises(RequestError) as caught:
        read(naive)
    assert "tz_localize" in caught.value.detail
    with pytest.raises(RequestError, match="without a zone"):
        read(pa.Table.from_pandas(naive))


def test_a_missing_column_is_named_with_those_that_are_there() -> None:
    with pytest.raises(RequestError) as caught:
        read([{"at": AT[0], "Carrier": "AA"}])
    assert "no column 'carrier'" in caught.value.detail
    assert "it has at, Carrier" in caught.value.detail


def test_files_of_another_kind_and_ragged_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"\.xlsx"):
        read(tmp_path / "spine.xlsx")
    (tmp_path / "ragged.csv").write_text("at,carrier\n1,AA\n2\n")
    with pytest.raises(RequestError, match="line 3 has 1 fields"):
        read(tmp_path / "ragged.csv")
    with pytest.raises(RequestError, match="a list of something else than rows"):
        read([1, 2])


def test_an_instant_among_the_request_inputs_may_be_null_as_when_it_is_asked() -> None:
    since = [AT[1], None, AT[2]]
    want = [AT_US[1], np.nan, AT_US[2]]
    context = {"since": Field(name="since", type="datetime", nullable=True)}
    plain = {"at": AT, "since": since}
    zoned = pd.to_datetime([None if a is None else a.isoformat() for a in since], utc=True, format="ISO8601")
    table = pa.table({"at": pa.array(AT_US), "since": pa.array([None if a is None else a.astimezone(UTC) for a in since])})
    for spine in (plain, pd.DataFrame({"at": AT_US, "since": zoned}), table):
        got = read(spine, join_keys={}, context=context, label=None)
        np.testing.assert_array_equal(got.context["since"], want)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("absent.csv", None),
        ("absent.parquet", None),
        ("latin1.csv", "at,carrier\n1,é\n".encode("latin-1")),
        ("huge.csv", b'at,carrier\n1,"' + b"x" * 200_000 + b'"\n'),
        ("text.parquet", b"at,carrier\n"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=f"{name} cannot be read: .+"):
        read(tmp_path / name)


# -- instants that cannot be what was meant ----------------------------------------------------------------------------

@pytest.mark.parametrize("value", ["99999999999999999999", 99999999999999999999, 2**63 - 1, str(2**63 - 1), -(2**53) - 1, "9" * 5_000])
def test_an_instant_further_from_1970_than_any_event_is_refused_with_row_and_column(value: object) -> None:
    with pytest.raises(RequestError, match="row 1: 'at' is .* more than 285 years from 1970"):
        read([ROWS[0], {**ROWS[1], "at": value}])


def test_columns_of_integers_or_of_numpy_instants_are_held_to_the_same_years() -> None:
    for wrong in (np.array([0, 2**63 - 1]), np.array([0, 2**64 - 1], np.uint64), np.array(["2024-01-01", "9999-01-01"], "M8[s]"),
                  np.array([0, 2**62], "M8[s]")):
        with pytest.raises(RequestError, match="row 1: 'at' is .* more than 285 years from 1970"):
            read({"at": wrong}, join_keys={}, context={}, label=None)
    with pytest.raises(RequestError, match="row 1: 'at'"):
        read(pa.table({"at": pa.array([0, 2**62], pa.timestamp("s", tz="UTC"))}), join_keys={}, context={}, label=None)
    small = read({"at": np.array([0, 250], np.uint8)}, join_keys={}, context={}, label=None)
    assert small.instants_us.tolist() == [0, 250]


@pytest.mark.parametrize("value", ["²³", "٣", "1_000", "１２"])
def test_digits_that_are_not_plain_ones_are_no_instant(value: str) -> None:
    with pytest.raises(RequestError, match=r"row 1: 'at' is .*RFC 3339"):
        read([ROWS[0], {**ROWS[1], "at": value}])


def test_a_null_among_the_instants_names_its_row() -> None:
    for null in (pd.NaT, float("nan"), pd.NA):
        with pytest.raises(RequestError, match="row 1: 'at' is .*, which names no instant"):
            read([ROWS[0], {**ROWS[1], "at": null}])


def test_an_id_that_a_float_cannot_hold_is_refused_and_not_taken_for_its_neighbour() -> None:
    for wrong in (2**53 + 1, str(2**53 + 1), -(2**53) - 1, 10**400):
        with pytest.raises(RequestError, match="row 1: 'airport' is"):
            read([ROWS[0], {**ROWS[1], "airport": wrong}])
    assert read([{**ROWS[0], "airport": 2**53}]).ids["airport"].tolist() == [2.0**53]


def test_a_value_that_is_no_number_names_its_row() -> None:
    with pytest.raises(RequestError, match="row 1: 'airport' is 'LAX'. Write numbers"):
        read([ROWS[0], {**ROWS[1], "airport": "LAX"}])


# -- files and frames that say two things ------------------------------------------------------------------------------

def test_a_csv_file_with_a_byte_order_mark_has_its_first_column(tmp_path: Path) -> None:
    (tmp_path / "spine.csv").write_bytes(b"\xef\xbb\xbfat,carrier\r\n2024-01-01T00:00:00Z,AA\r\n")
    got = read(tmp_path / "spine.csv", join_keys={"carrier": "str"}, context={}, label=None)
    assert got.instants_us.tolist() == AT_US[:1]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "spine.csv").write_text("at,carrier,carrier\n2024-01-01T00:00:00Z,AA,B6\n")
    table = pa.table([pa.array(AT_US), pa.array(["AA"] * 3), pa.array(["B6"] * 3)], names=["at", "carrier", "carrier"])
    parquet.write_table(table, tmp_path / "spine.parquet")
    mapping = {"carrier": ["AA"], "at": [0], 1: [1], "1": [2]}
    for spine in (tmp_path / "spine.csv", tmp_path / "spine.parquet", table, table.to_pandas(), mapping):
        with pytest.raises(RequestError, match="two columns called '(carrier|1)'"):
            read(spine, join_keys={"carrier": "str"}, context={}, label=None)


def test_columns_without_a_name_are_ignored_however_many(tmp_path: Path) -> None:
    (tmp_path / "spine.csv").write_text("at,carrier,,\n2024-01-01T00:00:00Z,AA,,\n")
    assert len(read(tmp_path / "spine.csv", join_keys={"carrier": "str"}, context={}, label=None)) == 1


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(RequestError, match="'at' has 2 rows and 'carrier' 1"):
        read({"at": AT_US[:2], "carrier": ["AA"]}, join_keys={"carrier": "str"}, context={}, label=None)


def test_a_folder_given_as_the_spine_is_named(tmp_path: Path) -> None:
    for name in ("spine.csv", "spine", "spine.parquet"):
        (tmp_path / name).mkdir()
        with pytest.raises(RequestError, match=f"{name} is a folder"):
            read(tmp_path / name)
