"""Durations and windows as a user writes them."""

from __future__ import annotations

import re
from typing import Final

from featureflow import limits
from featureflow.define import spec
from featureflow.define.place import Place, wrong

SECOND_US: Final = 1_000_000  # the finest tile: no window is cut more finely
_UNITS: Final = {"ms": 1_000, "s": SECOND_US, "m": 60 * SECOND_US, "h": 3_600 * SECOND_US, "d": 86_400 * SECOND_US}
_DURATION: Final = re.compile(r"([0-9]{1,12})(ms|s|m|h|d)")
_LOOSE: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([a-z]+)")
_SPELLED: Final = {
    "ms": 1_000,
    "mil": 1_000,
    "w": 7 * _UNITS["d"],
    **{unit: _UNITS[unit] for unit in ("s", "m", "h", "d")},
}

Window = spec.Window
lifetime: Final = Window(kind="lifetime", length_us=0, text="lifetime")


def tumbling(length: str) -> Window:
    """A window that starts at a multiple of ``length`` (UTC, from 1970) and ends now: ``tumbling("1d")`` is today.

    Raises DefinitionError where no tile (1 s to 1 d) divides ``length``.
    """
    us = duration(length, "the length of tumbling()")
    _check_length(us, length)
    if us % SECOND_US:
        raise wrong(
            f'tumbling("{length}") cannot be cut into tiles: the finest tile is 1 s and does not divide it',
            write=f'tumbling("{us // SECOND_US}s") or another whole number of seconds',
        )
    return Window(kind="tumbling", length_us=us, text=length)


def sliding(length: str) -> Window:
    """The window of the last ``length``."""
    us = duration(length, "a window")
    _check_length(us, length)
    if us % SECOND_US:
        raise wrong(f'the window "{length}" is not a whole number of seconds', write=f'"{us // SECOND_US}s"')
    return Window(kind="sliding", length_us=us, text=length)


def windows(over: object, aggregation: str) -> tuple[Window, ...]:
    """The windows of ``over=``: a tuple of durations, ``tumbling(...)`` and ``lifetime``."""
    if isinstance(over, str):
        raise wrong(
            f'over="{over}" is a string: it would be read letter by letter', write=f'over=("{over}",), with the comma'
        )
    if isinstance(over, Window):
        raise wrong(
            f"over={written(over)} is one window, not a tuple of windows",
            write=f"over=({written(over)},), with the comma",
        )
    if isinstance(over, list) and over and all(isinstance(one, str) for one in over):
        quoted = ", ".join(f'"{one}"' for one in over)
        raise wrong(f"over={over} is a list, not a tuple", write=f"over=({quoted},)")
    if not isinstance(over, tuple) or not over:
        raise wrong(f"over= of {aggregation}() is {over!r}, not a tuple of windows", write='over=("1h", "6h")')
    found: list[Window] = []
    for one in over:
        window = one if isinstance(one, Window) else sliding(one)
        for other in found:
            if (window.kind, window.length_us) == (other.kind, other.length_us):
                raise wrong(
                    f"over= names the window {written(other)} twice"
                    + ("" if window == other else f", once as {written(window)}"),
                    write=f"over=({', '.join(map(written, found))},)",
                )
        found.append(window)
    return tuple(found)


def written(window: Window) -> str:
    """The window as it stands in a definitions file."""
    return {"sliding": f'"{window.text}"', "tumbling": f'tumbling("{window.text}")', "lifetime": "lifetime"}[
        window.kind
    ]


def duration(text: object, what: str, example: str = "1h", at: Place | None = None) -> int:
    """Microseconds of ``20ms``, ``30s``, ``10m``, ``6h``, ``7d``. Raises DefinitionError for anything else."""
    if isinstance(text, str) and (match := _DURATION.fullmatch(text)):
        us = int(match[1]) * _UNITS[match[2]]
        if us > limits.DURATION_US:
            days = limits.DURATION_US // _UNITS["d"]
            raise wrong(f"{what} is {text!r}, longer than the limit, {days} d", write=f'"{days}d" or shorter', at=at)
        return us
    raise wrong(
        f"{what} is {text!r}, which is no duration: a whole number and one of the units {', '.join(_UNITS)}",
        write=f'"{_meant(text) or example}"',
        at=at,
    )


def same_length(text: str, window: Window) -> bool:
    """Whether ``text`` is another way to write the window's length: ``60m`` and ``1h``."""
    match = _DURATION.fullmatch(text)
    return match is not None and int(match[1]) * _UNITS[match[2]] == window.length_us


def _meant(text: object) -> str | None:
    """``1.5 hours`` -> ``90m``."""
    match = _LOOSE.fullmatch(text.strip().lower()) if isinstance(text, str) else None
    if match is None:
        return None
    unit = next((us for name, us in _SPELLED.items() if match[2].startswith(name)), None)
    us = int(float(match[1]) * unit) if unit else 0
    return next((f"{us // size}{name}" for name, size in reversed(_UNITS.items()) if us and us % size == 0), None)


def _check_length(us: int, text: str) -> None:
    if us < SECOND_US:
        raise wrong(f'the window "{text}" is shorter than the finest tile, 1 s', write='"1s" or longer')
    if us > limits.WINDOW_US:
        days = limits.WINDOW_US // _UNITS["d"]
        raise wrong(
            f'the window "{text}" is longer than the limit, {days} d', write=f'"{days}d" or shorter, or lifetime'
        )
