"""The natural logarithm of one more, the same bits on every machine.

numpy's log1p is the C library's on one processor and a vector library's on another, and they differ in the last bit of one value in
thirty: a state that one worker folded would not be what history says on the next machine. Here everything is ``+ - * /`` and
comparisons of single elements, which IEEE 754 rounds in one way.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

HALF_ROOT = 0.7071067811865476             # of two: what the mantissa is brought above
LN2_HIGH = float.fromhex("0x1.62e42feep-1")            # 33 bits, so that its products with exponents are exact
LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
SERIES = (                                 # of (ln(1 + f) - f + f^2 / 2) by s^2, highest power first: off by less than 2^-58
    0.1479819860511658591, 0.1531383769920937332, 0.1818357216161805012, 0.2222219843214978396,
    0.2857142874366239149, 0.3999999999940941908, 0.6666666666666735130,
)  # fmt: skip


def log1p(x: Float) -> Float:
    """ln(1 + x) within a unit in the last place; NaN of -1 and less, x itself where that is what it rounds to.

    As in fdlibm's s_log1p.c (Sun Microsystems, 1993): 1 + x = 2^k * (1 + f), its rounding error is ``rest``, and with s = f / (2 + f)
    ln(1 + f) = f - f^2 / 2 + s * (f^2 / 2 + a series of s^2). But for the condition at ``rest``: between 0.41 and 1 theirs is not exact.
    """
    above = np.where(x > -1.0, x, np.nan)
    more = 1.0 + above
    mantissa, exponent = np.frexp(more)
    low = mantissa < HALF_ROOT
    k = (exponent - low).astype(np.float64)
    near = k == 0.0
    f = np.where(near, above, np.where(low, 2.0 * mantissa, mantissa) - 1.0)
    rest = np.where(near, 0.0, np.where(above < 1.0, above - (more - 1.0), 1.0 - (more - above)) / more)
    half, s = 0.5 * f * f, f / (2.0 + f)
    square = s * s
    series = square * SERIES[0]
    for coefficient in SERIES[1:]:
        series = (series + coefficient) * square
    return np.asarray(k * LN2_HIGH - ((half - (s * (half + series) + (k * LN2_LOW + rest))) - f), np.float64)
