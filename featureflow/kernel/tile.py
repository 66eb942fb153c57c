"""Tiles: the intervals that events are folded into, and where a window begins.

All times are int64 microseconds since 1970 UTC. Boundaries are multiples of the tile counted from 1970, so every tile of
the ladder divides the next and tiles nest. The lifetime tile covers all of time and starts at ``LIFETIME_START_US``.
"""

from __future__ import annotations

import math
from typing import overload

import numpy as np
from numpy.typing import NDArray

from featureflow.define.spec import Window
from featureflow.errors import DefinitionError

SECOND_US = 1_000_000
EXACT_US = 1  # below the ladder: the tile of exact windows, each event time its own
LADDER_US = tuple(seconds * SECOND_US for seconds in (1, 10, 60, 300, 900, 3_600, 21_600, 86_400))
LIFETIME_US = 2**62
LIFETIME_START_US = -(2**62)
TILES_PER_WINDOW = 12  # a sliding window's tail moves in steps of at most a twelfth of it


def tile_for(window: Window) -> int:
    """The tile size, in microseconds, that a window is made of.

    Sliding: the largest tile of which the window holds at least twelve, but at least 1 s. Tumbling and hopping: the largest tile
    that divides length, hop and offset. Session: the largest tile that is no longer than its gap. An exact one of any kind:
    ``EXACT_US``. Lifetime: ``LIFETIME_US``. Raises DefinitionError for a window that no tile divides.
    """
    if window.kind == "lifetime":
        return LIFETIME_US
    if window.exact:
        return EXACT_US
    if window.kind == "session":
        return max((tile for tile in LADDER_US if tile <= window.gap_us), default=LADDER_US[0])
    if window.kind == "sliding":
        return max((tile for tile in LADDER_US if window.length_us >= TILES_PER_WINDOW * tile), default=LADDER_US[0])
    divided = math.gcd(window.length_us, window.hop_us, window.offset_us)
    dividing = [tile for tile in LADDER_US if divided > 0 and divided % tile == 0]
    if not dividing:
        raise DefinitionError(
            f"{window.kind} window {window.text!r} is not a whole number of seconds",
            write=f"a window of whole seconds, such as {window.kind}('10s')",
        )
    return dividing[-1]


@overload
def floor(t: int, tile: int) -> int: ...
@overload
def floor(t: NDArray[np.int64], tile: int) -> NDArray[np.int64]: ...
def floor(t: int | NDArray[np.int64], tile: int) -> int | NDArray[np.int64]:
    """The start of the tile that holds ``t``."""
    if tile == LIFETIME_US:
        return np.full_like(t, LIFETIME_START_US) if isinstance(t, np.ndarray) else LIFETIME_START_US
    return t // tile * tile


@overload
def window_start(window: Window, q: int) -> int: ...
@overload
def window_start(window: Window, q: NDArray[np.int64]) -> NDArray[np.int64]: ...
def window_start(window: Window, q: int | NDArray[np.int64]) -> int | NDArray[np.int64]:
    """Where the window begins when it is asked for at ``q``: a multiple of its tile.

    Sliding: ``floor(q - w, tile)``, which is q - w where it is exact. Tumbling: ``floor(q, w)``, the bucket that is not complete yet.
    Hopping: ``floor(q, hop) + hop - w``, the one of those not complete yet that closes next; floor is counted from the offset.
    Session: as sliding; it begins there at the earliest, where its events say (``kernel.session``). Lifetime: the beginning.
    """
    if window.kind == "lifetime":
        return floor(q, LIFETIME_US)
    back, step, shift = steps(window)
    return (q - back) // step * step + shift


def steps(window: Window) -> tuple[int, int, int]:
    """(back, step, shift) of a window that is not lifetime: it begins at ``floor(q - back, step) + shift``, whatever its kind."""
    if window.kind in ("tumbling", "hopping"):
        hop = window.hop_us or window.length_us
        return window.length_us - hop + window.offset_us, hop, window.offset_us
    return window.length_us, tile_for(window), 0
