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
from featureflow.kernel.partial.sketch import Sketch


class Aggregation:
    """``finalize`` gets one array per partial, then what it is ``given``, and gives (f, n).

    Where it ``takes`` "numbers" an array is what the partial's ``read`` gave, (f, n); where it takes "columns" the raw canonical
    int64 columns, (columns, f, n). It may be given the "instants" asked for, (n,) or (1,) int64 microseconds, and the "constant" of each
    feature, (f, 1). Where it is not overridden, the last partial's number is the value; those of ``entries.Kept`` are read from entries.
    """

    needs: ClassVar[tuple[type[Partial], ...]]
    takes: ClassVar[Literal["numbers", "columns"]] = "numbers"
    given: ClassVar[tuple[Literal["instants", "constant"], ...]] = ()

    @classmethod
    def partials(cls, declared: spec.Aggregation) -> tuple[Partial, ...]:
        """What is kept of the events, in the order in which ``finalize`` takes it."""
        return tuple(partial.of(declared) for partial in cls.needs)

    @classmethod
    def constant(cls, declared: spec.Aggregation, window: spec.Window) -> float:
        """What ``finalize`` is given as the constant of one feature."""
        raise NotImplementedError

    @classmethod
    def sketch(cls, declared: spec.Aggregation) -> Sketch | None:
        """The partial that is a sketch, whose ``estimate`` is then the value."""
        return next((partial for partial in cls.partials(declared) if isinstance(partial, Sketch)), None)

    @staticmethod
    def finalize(*partials: NDArray[np.float64 | np.int64]) -> Float:
        """(f, n) float64 values; see the class."""
        return np.asarray(partials[-1], np.float64)
