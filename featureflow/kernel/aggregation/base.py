"""Aggregations: which partials one needs, and the number they give.

The first partial of every aggregation is the ``Count`` of what participates. Where it is zero the feature is its declared
default, or undefined, whatever ``finalize`` gives there. Adding an aggregation is one class in a file of this folder and a line in
``table.AGGREGATIONS``.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from featureflow.define import spec
from featureflow.kernel.exact import Float
from featureflow.kernel.partial.base import Partial


class Aggregation:
    """``finalize`` gets one array per partial and gives (f, n).

    Where it ``takes`` "numbers" an array is what the partial's ``read`` gave, (f, n); where it takes "columns" the raw canonical
    int64 columns, (columns, f, n). Where it is not overridden, the last partial's number is the value; that of ``LastN`` always is.
    """

    needs: ClassVar[tuple[type[Partial], ...]]
    takes: ClassVar[Literal["numbers", "columns"]] = "numbers"

    @classmethod
    def partials(cls, declared: spec.Aggregation) -> tuple[Partial, ...]:
        return tuple(partial.of(declared) for partial in cls.needs)

    @staticmethod
    def finalize(*partials: NDArray[np.float64 | np.int64]) -> Float:
        return np.asarray(partials[-1], np.float64)
