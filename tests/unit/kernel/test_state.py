from __future__ import annotations

import numpy as np
import pytest
from unit.kernel.worlds import LIFETIME, NOON, aggregation, sliding, source, view

from featureflow.errors import StateError
from featureflow.kernel.columns import Layout
from featureflow.kernel.state import States, encode, header, parse

SOURCE = source()
LAYOUT = Layout.of(view([aggregation("mean", [sliding(600), sliding(86_400), LIFETIME])], [SOURCE]), SOURCE)
FRONTIERS = np.array([NOON, NOON - 3600])


def rows(*starts: int) -> np.ndarray:
    made = LAYOUT.rows(np.tile(LAYOUT.identity, (len(starts), 1)))
    made["start"] = starts
    return made


def test_states_come_back_with_their_entities_headers_and_rows() -> None:
    one, two = encode(LAYOUT, 3, 7, FRONTIERS, rows(1, 2)), encode(LAYOUT, 4, 8, FRONTIERS + 1, rows(5))
    states = parse(LAYOUT, [[one, two], [None, b""], [None, one]])
    assert states.count == 3
    assert states.rows["start"].tolist() == [1, 2, 5, 1, 2]
    assert states.entity.tolist() == [0, 0, 0, 2, 2]
    assert states.blob_entity.tolist() == [0, 0, 2]
    assert states.owners.tolist() == [3, 4, 3]
    assert states.horizons.tolist() == [7, 8, 7]
    assert states.frontiers.tolist() == [FRONTIERS.tolist(), (FRONTIERS + 1).tolist(), FRONTIERS.tolist()]


def test_nothing_at_all_is_no_rows() -> None:
    states = parse(LAYOUT, [[None], [None]])
    assert (states.count, len(states.rows), len(states.entity), states.frontiers.shape) == (2, 0, 0, (0, 2))


def test_a_value_is_its_header_and_then_its_rows() -> None:
    blob = encode(LAYOUT, 3, 7, FRONTIERS, rows(1, 2))
    assert len(blob) == LAYOUT.header_bytes + 2 * LAYOUT.row_bytes
    assert blob.startswith(header(LAYOUT, 3, 7, FRONTIERS))
    assert blob[LAYOUT.header_bytes:] == rows(1, 2).tobytes()


@pytest.mark.parametrize("cut", [1, 8, 30])
def test_a_truncated_value_is_refused_with_its_view(cut: int) -> None:
    good = encode(LAYOUT, 3, 7, FRONTIERS, rows(1))
    with pytest.raises(StateError, match=r"the state of (\w+)@\w+ from \w+ has \d+ bytes: not a header.*Run `featureflow rebuild \1`"):
        parse(LAYOUT, [[good], [good[:-cut]]])


@pytest.mark.parametrize("byte", [0, 2, 8, 15])
def test_a_value_of_another_format_or_layout_is_refused_with_its_view(byte: int) -> None:
    good = encode(LAYOUT, 3, 7, FRONTIERS, rows(1))
    bad = good[:byte] + bytes([good[byte] ^ 1]) + good[byte + 1:]
    with pytest.raises(StateError, match=r"the state of (\w+)@\w+ from \w+ has format .* and layout.*Run `featureflow rebuild \1`"):
        parse(LAYOUT, [[good], [bad]])


def test_rows_without_headers_were_never_rolled_up() -> None:
    states = States.of_rows(LAYOUT, rows(1, 2), np.array([0, 1]), 2)
    assert (len(states.blob_entity), states.frontiers.shape) == (0, (0, 2))
