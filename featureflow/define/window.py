"""Durations and windows as a user writes them."""

from __future__ import annotations

import re
from typing import Final

import msgspec

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


def tumbling(length: str, *, offset: str = "0s") -> Window:
    """A window that starts at ``offset`` + a multiple of ``length`` (UTC, from 1970) and ends now: ``tumbling("1d")`` is today.

    Raises DefinitionError where no tile (1 s to 1 d) divides both.
    """
    us = duration(length, "the length of tumbling()")
    _check_length(us, length)
    if us % SECOND_US:
        raise wrong(
            f'tumbling("{length}") cannot be cut into tiles: the finest tile is 1 s and does not divide it',
            write=f'tumbling("{us // SECOND_US}s") or another whole number of seconds',
        )
    return Window(kind="tumbling", length_us=us, text=length, offset_us=_offset(offset, f'tumbling("{length}")', us))


def hopping(length: str, *, every: str, offset: str = "0s") -> Window:
    """The window of ``length`` that closes next, of those that close each ``every``: at ``offset`` + a multiple of it.

    It starts at floor(now, every) + every - length, so that ``hopping("1d", every="1d")`` is ``tumbling("1d")``. Raises DefinitionError
    where ``every`` does not divide ``length``, or no tile (1 s to 1 d) divides them and ``offset``.
    """
    us, hop_us = duration(length, "the length of hopping()"), duration(every, "every= of hopping()", "1m")
    _check_length(us, length)
    written_so = f'hopping("{length}", every="{every}")'
    if hop_us < SECOND_US or hop_us % SECOND_US:
        raise wrong(
            f"{written_so} moves in steps that are not whole seconds, and the finest tile is 1 s",
            write=f'every="{max(1, hop_us // SECOND_US)}s"',
        )
    if us % hop_us:
        fitting = next(hop for hop in range(min(hop_us, us), 0, -SECOND_US) if us % hop == 0) if us % SECOND_US == 0 else 0
        raise wrong(
            f"{written_so}: a window is made of whole steps, and {every} does not divide {length}",
            write=f'every="{spec.spelled(fitting)}"' if fitting else f'hopping("{us // hop_us * hop_us // SECOND_US}s", every="{every}")',
        )
    return Window(kind="hopping", length_us=us, text=length, hop_us=hop_us, offset_us=_offset(offset, written_so, hop_us))


def session(gap: str, longest: str = "24h") -> Window:
    """The events since the last pause of more than ``gap``, none once the newest is longer ago than that; ``longest`` back at most.

    Raises DefinitionError for a gap shorter than the finest tile, 1 s, or longer than ``longest``.
    """
    gap_us, us = duration(gap, "the gap of session()", "30m"), duration(longest, "longest= of session()", "24h")
    if gap_us < SECOND_US:
        raise wrong(f'session(gap="{gap}"): the gap is shorter than the finest tile, 1 s', write='session(gap="1s")')
    _check_length(us, longest)
    if gap_us > us:
        raise wrong(
            f'session(gap="{gap}", longest="{longest}"): the gap is longer than the session may reach back',
            write=f'session(gap="{gap}", longest="{spec.spelled(24 * gap_us)}")'
            if 24 * gap_us <= limits.WINDOW_US
            else 'a sliding window, "30d"',
        )
    return Window(kind="session", length_us=us, text=gap, gap_us=gap_us)


def _offset(offset: str, of: str, step_us: int) -> int:
    us = duration(offset, f"offset= of {of}", "6h")
    if us % SECOND_US:
        raise wrong(f'offset="{offset}" of {of} is not a whole number of seconds', write=f'offset="{us // SECOND_US}s"')
    if us >= step_us:
        raise wrong(
            f'offset="{offset}" of {of} is not shorter than the {spec.spelled(step_us)} after which the windows begin anew',
            write=f'offset="{spec.spelled(us % step_us)}"' if us % step_us else f"{of} without offset=",
        )
    return us


def sliding(length: str) -> Window:
    """The window of the last ``length``."""
    us = duration(length, "a window")
    _check_length(us, length)
    if us % SECOND_US:
        raise wrong(f'the window "{length}" is not a whole number of seconds', write=f'"{us // SECOND_US}s"')
    return Window(kind="sliding", length_us=us, text=length)


def windows(over: object, aggregation: str, *, exact: bool = False) -> tuple[Window, ...]:
    """The windows of ``over=``: a tuple of durations and of what the functions here give; all ``exact``, or none."""
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
            if _meaning(window) == _meaning(other):
                raise wrong(
                    f"over= names the window {written(other)} twice"
                    + ("" if window == other else f", once as {written(window)}"),
                    write=f"over=({', '.join(map(written, found))},)",
                )
        found.append(window)
    if exact is False:
        return tuple(found)
    if exact is not True:
        raise wrong(f"exact={exact!r} of {aggregation}() is neither True nor False", write="exact=True")
    if any(window.kind == "lifetime" for window in found):
        raise wrong(
            f"{aggregation}() over lifetime is not exact: it would keep every event there ever was, one by one",
            write=f"another {aggregation}() over lifetime, without exact=True",
        )
    return tuple(msgspec.structs.replace(window, exact=True) for window in found)


def written(window: Window) -> str:
    """The window as it stands in a definitions file."""
    if window.kind in ("sliding", "lifetime"):
        return f'"{window.text}"' if window.kind == "sliding" else "lifetime"
    if window.kind == "session":
        return f'session(gap="{window.text}", longest="{spec.spelled(window.length_us)}")'
    every = f', every="{spec.spelled(window.hop_us)}"' if window.hop_us else ""
    offset = f', offset="{spec.spelled(window.offset_us)}"' if window.offset_us else ""
    return f'{window.kind}("{window.text}"{every}{offset})'


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


def _meaning(window: Window) -> Window:
    """The window without how it is written. Two sessions of one gap would have one name."""
    length_us = 0 if window.kind == "session" else window.length_us
    return msgspec.structs.replace(window, text="", length_us=length_us)


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
