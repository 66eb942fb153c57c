"""log1p in expressions: near enough, and the same bits whatever the processor can do."""

from __future__ import annotations

import hashlib
import math
import os
import random
import subprocess
import sys
from decimal import Decimal, localcontext

import numpy as np
from numpy.typing import NDArray

from featureflow.define.spec import Call, Column
from featureflow.kernel.expression import evaluate

LUCK = random.Random(1)                    # whole numbers and powers of two, which no machine computes otherwise
SHARES = [math.ldexp(LUCK.getrandbits(53) + 1, -53 - LUCK.choice((0, 0, 1, 2, LUCK.randrange(70)))) for _ in range(10_000)]
LARGE = [math.ldexp(LUCK.getrandbits(53) + 1, LUCK.choice((-53, -52, -51, LUCK.randrange(-53, 10)))) for _ in range(10_000)]
SOME = np.array(SHARES + [-x for x in SHARES if x < 1.0] + LARGE + [0.0, 2.0**53, 2.0**53 - 1])
BITS = "f12015b81d212304ff5ab45a73fcac7e1ac3d463372ce8224aed31790c82c34e"
FEATURES = "X86_V4 AVX512_ICL AVX512_SPR AVX512_SKX"   # what numpy has vector code of its own for; those that are not there are ignored


def logarithms(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return evaluate(Call("log1p", (Column("a"),)), {"a": values})


def digest() -> str:
    """SHA-256 of the little-endian bytes."""
    return hashlib.sha256(logarithms(SOME).astype("<f8").tobytes()).hexdigest()


def test_a_logarithm_has_these_bits_on_every_machine() -> None:
    assert digest() == BITS


def test_a_logarithm_does_not_depend_on_what_the_processor_can_do() -> None:
    script = "import test_logarithm; print(test_logarithm.digest())"
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__), "NPY_DISABLE_CPU_FEATURES": FEATURES}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == digest(), done.stderr


def test_nor_on_where_in_an_array_a_value_stands() -> None:
    every, wide = logarithms(SOME), np.zeros((len(SOME), 3))
    wide[:, 1] = SOME
    assert logarithms(wide[:, 1]).tobytes() == every.tobytes()
    assert all(logarithms(SOME[i:i + 1])[0] == every[i] for i in range(0, len(SOME), 97))


def test_a_logarithm_is_within_a_unit_in_the_last_place() -> None:
    with localcontext() as exact:
        exact.prec = 60
        for value, found in zip(SOME[:-3].tolist(), logarithms(SOME[:-3]).tolist(), strict=True):
            true = (1 + Decimal(value)).ln()
            assert abs(Decimal(found) - true) <= Decimal(math.ulp(float(true))), value


def test_there_is_none_of_minus_one_and_less() -> None:
    assert np.isnan(logarithms(np.array([-1.0, -1.5, -9e18, math.nan]))).all()
