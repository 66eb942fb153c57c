from __future__ import annotations

import pytest

from featureflow.define.spec import Window
from featureflow.define.window import duration, hopping, lifetime, tumbling, windows, written
from featureflow.errors import DefinitionError

SECOND = 1_000_000


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("20ms", 20_000),
        ("0s", 0),
        ("30s", 30 * SECOND),
        ("10m", 600 * SECOND),
        ("6h", 21_600 * SECOND),
        ("7d", 604_800 * SECOND),
    ],
)
def test_a_duration_is_a_whole_number_and_a_unit(text: str, us: int) -> None:
    assert duration(text, "it") == us


@pytest.mark.parametrize(
    ("text", "meant"),
    [("1 hour", "1h"), ("90 Min", "90m"), ("1.5h", "90m"), ("2 weeks", "14d"), ("250 milliseconds", "250ms"), ("1hr", "1h"), ("1H", "1h"),
     ("-5m", "1h"), ("", "1h"), (3600, "1h"), ("0.1ms", "1h"), ("٣h", "1h")],
)  # fmt: skip
def test_anything_else_is_refused_with_what_was_probably_meant(text: object, meant: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        duration(text, "a window")
    assert caught.value.write == f'"{meant}"'


def test_over_gives_windows_in_the_order_written() -> None:
    assert windows(("1h", tumbling("1d"), lifetime), "count") == (
        Window(kind="sliding", length_us=3_600 * SECOND, text="1h"),
        Window(kind="tumbling", length_us=86_400 * SECOND, text="1d"),
        Window(kind="lifetime", length_us=0, text="lifetime"),
    )


def test_a_sliding_and_a_tumbling_window_of_one_length_are_two_windows() -> None:
    assert [window.suffix for window in windows(("1d", tumbling("1d")), "count")] == ["1d", "tumbling_1d"]


@pytest.mark.parametrize(
    "over", ["1h", (), None, ["1h"], lifetime, ("1h", "60m"), (lifetime, lifetime), (3600,), ("500ms",), ("401d",)]
)
def test_over_refuses_what_is_not_a_tuple_of_different_windows_within_bounds(over: object) -> None:
    with pytest.raises(DefinitionError):
        windows(over, "count")


@pytest.mark.parametrize(
    ("window", "suffix", "text"),
    [
        (tumbling("1d", offset="6h"), "tumbling_1d_from_6h", 'tumbling("1d", offset="6h")'),
        (hopping("10m", every="60s"), "hopping_10m_1m", 'hopping("10m", every="1m")'),
        (hopping("1h", every="90s", offset="30s"), "hopping_1h_90s_from_30s", 'hopping("1h", every="90s", offset="30s")'),
        (lifetime, "lifetime", "lifetime"),
    ],
)
def test_a_window_names_its_feature_and_is_written_as_it_stood(window: Window, suffix: str, text: str) -> None:
    assert (window.suffix, written(window)) == (suffix, text)


def test_windows_that_differ_in_hop_or_offset_are_different() -> None:
    assert len(windows((hopping("1h", every="1m"), hopping("1h", every="2m"), hopping("1h", every="1m", offset="1s")), "count")) == 3
    with pytest.raises(DefinitionError):
        windows((hopping("1h", every="1m"), hopping("60m", every="60s")), "count")


@pytest.mark.parametrize(
    ("length", "every", "offset", "write"),
    [
        ("10m", "7m", "0s", 'every="5m"'),
        ("10m", "20m", "0s", 'every="10m"'),
        ("1500ms", "1s", "0s", 'hopping("1s", every="1s")'),
        ("10m", "500ms", "0s", 'every="1s"'),
        ("10m", "1m", "1m", 'hopping("10m", every="1m") without offset='),
        ("10m", "1m", "90s", 'offset="30s"'),
        ("10m", "1m", "1500ms", 'offset="1s"'),
        ("500d", "1d", "0s", '"400d" or shorter, or lifetime'),
    ],
)
def test_a_hopping_window_is_whole_steps_of_whole_seconds(length: str, every: str, offset: str, write: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        hopping(length, every=every, offset=offset)
    assert caught.value.write == write


@pytest.mark.parametrize("length", ["1500ms", "0s", "401d", "day"])
def test_a_tumbling_window_is_whole_seconds_up_to_the_limit(length: str) -> None:
    with pytest.raises(DefinitionError):
        tumbling(length)
