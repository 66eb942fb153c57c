"""Values that fade: an event of ``half_life`` ago weighs half.

The weight of an event at an instant, 2^((t - q) / half_life), changes with every question. So an event is weighed once, against a landmark
that its own time fixes: the end of its tile of the window's size. What it adds is 2^((t - landmark) / half_life) of its value, rounded
once to the fixed point and from there on exact. Rows of one landmark are added exactly; each landmark's sum is rounded once and
scaled by 2^((landmark - q) / half_life), and those are added from the oldest to the newest. So the result does not depend, in the last
bit, on how events lie in batches, partitions and rows.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from featureflow.kernel import exact
from featureflow.kernel.exact import Float, Int
from featureflow.kernel.tile import floor

STEPS = 64                                 # of the table: 2^(i / 64)
LN2 = math.log(2.0)
ONE = 1023                                 # the biased exponent of 1.0


def _table() -> Float:
    """2^(i / STEPS), each rounded once: roots and products of 256-bit integers."""
    one = 1 << 256
    root = 2 * one
    for _ in range(STEPS.bit_length() - 1):
        root = math.isqrt(root * one)
    powers = [one]
    for _ in range(STEPS - 1):
        powers.append(powers[-1] * root // one)
    return np.array([power / one for power in powers])


TABLE = _table()


def power_of_two(over: Int, under: int) -> Float:
    """2^(over / under), with a relative error of at most 2^-51; the exponent between -1000 and 1000, ``under`` below 2^50.

    The exponent is split exactly, in integers: whole + (step + rest / under) / STEPS. A table has 2^(step / STEPS), and a polynomial of
    degree six e^u for 0 <= u < ln 2 / STEPS, which leaves u^7 / 5040 < 2^-58 out. Only + and * of single elements, so that a value is
    the same wherever in an array it stands; numpy's exp2 promises no such thing.
    """
    whole, rest = np.divmod(over, under)
    step, rest = np.divmod(rest * STEPS, under)
    u = rest / under * (LN2 / STEPS)
    series = u * (1 / 720) + 1 / 120
    for coefficient in (1 / 24, 1 / 6, 1 / 2, 1.0):
        series = series * u + coefficient
    power = TABLE[step]
    return np.asarray((power + power * (series * u)) * ((whole + ONE) << 52).view(np.float64), np.float64)


def landmark(times_us: Int, tile_us: int) -> Int:
    """What an event or a row is weighed against: the end of its tile. So no weight is above 1 and nothing overflows."""
    return floor(times_us, tile_us) + tile_us


def decayed(
    limbs: Int, start: Int, entity: Int, q_us: Int, n: int, *, tile_us: int, half_life_us: int
) -> Float:
    """(n,) each entity's value at its instant ``q_us``, (n,) or (1,), from the limbs (3, k) of rows (k,) in any order."""
    if not len(start):
        return np.zeros(n)
    marks = landmark(start, tile_us)
    order = np.lexsort((marks, entity))
    marks, entity, limbs = marks[order], entity[order], limbs[:, order]
    other = np.concatenate(([True], entity[1:] != entity[:-1]))
    heads = np.flatnonzero(other | np.concatenate(([True], marks[1:] != marks[:-1])))
    sums = exact.canonical(np.add.reduceat(limbs, heads, axis=1))
    marks, entity = marks[heads], entity[heads]
    scaled = exact.to_float(sums) * power_of_two(marks - (q_us if len(q_us) == 1 else q_us[entity]), half_life_us)
    places = np.arange(len(heads))
    nth = places - np.maximum.accumulate(np.where(other[heads], places, 0))
    dense = np.zeros((int(nth.max()) + 1, n))
    dense[nth, entity] = scaled
    total: NDArray[np.float64] = np.add.accumulate(dense, axis=0)[-1]      # one after the other, from the oldest
    return total
