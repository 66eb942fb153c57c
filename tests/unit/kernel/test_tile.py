from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.kernel.worlds import LIFETIME, NOON, SECOND, WINDOWS, hopping, sliding, tumbling

from featureflow.define.spec import Window
from featureflow.errors import DefinitionError
from featureflow.kernel.tile import LADDER_US, LIFETIME_START_US, LIFETIME_US, floor, tile_for, window_start


def test_each_tile_divides_the_next() -> None:
    assert all(wide % narrow == 0 for narrow, wide in pairwise(LADDER_US))


@pytest.mark.parametrize(
    ("window", "seconds"),
    [
        (sliding(1), 1), (sliding(119), 1), (sliding(120), 10), (sliding(600), 10), (sliding(720), 60), (sliding(3600), 300),
        (sliding(10_800), 900), (sliding(43_200), 3600), (sliding(86_400), 3600), (sliding(259_200), 21_600), (sliding(1_036_800), 86_400),
        (tumbling(1), 1), (tumbling(90), 10), (tumbling(3600), 3600), (tumbling(7 * 86_400), 86_400), (tumbling(61), 1),
        (tumbling(86_400, 21_600), 21_600), (tumbling(3600, 7), 1),
        (hopping(600, 60), 60), (hopping(600, 60, 10), 10), (hopping(90, 30), 10),
    ],
)  # fmt: skip
def test_a_window_has_the_largest_tile_that_serves_it(window: Window, seconds: int) -> None:
    assert tile_for(window) == seconds * SECOND


def test_lifetime_is_one_tile() -> None:
    assert tile_for(LIFETIME) == LIFETIME_US
    assert floor(NOON, LIFETIME_US) == floor(-5, LIFETIME_US) == LIFETIME_START_US
    assert floor(np.array([NOON, -5]), LIFETIME_US).tolist() == [LIFETIME_START_US] * 2


def test_a_tumbling_window_that_no_tile_divides_is_refused() -> None:
    with pytest.raises(DefinitionError, match="tumbling window '1500ms' is not a whole number of seconds"):
        tile_for(Window(kind="tumbling", length_us=1_500_000, text="1500ms"))


@given(st.integers(-(2**52), 2**52), WINDOWS.filter(lambda window: window.kind != "lifetime"))
def test_a_window_begins_on_a_tile_at_the_same_place_for_one_and_for_many(q: int, window: Window) -> None:
    begin = window_start(window, q)
    assert begin == window_start(window, np.array([q]))[0] == floor(begin, tile_for(window))
    if window.kind == "tumbling":
        assert begin <= q < begin + window.length_us
    elif window.exact and window.kind == "sliding":
        assert begin == q - window.length_us
    elif window.kind == "hopping":
        assert begin + window.length_us - window.hop_us <= q < begin + window.length_us
    else:
        assert begin <= q - window.length_us < begin + tile_for(window)
