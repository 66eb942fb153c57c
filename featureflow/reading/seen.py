"""What a model reads of the features that were found: columns for its expressions, and where one of them is missing.

``found`` and ``places`` are per view of the model: its features, and each of n rows' place there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from featureflow.kernel.finalize import Status
from featureflow.reading.features import Features
from featureflow.reading.plan import ModelPlan

Places = Sequence[NDArray[np.intp]]
Columns = dict[str, NDArray[np.float64] | NDArray[np.object_]]


def feature_columns(plan: ModelPlan, found: Sequence[Features], places: Places, values: Sequence[NDArray[np.float64]]) -> Columns:
    """``view:feature`` -> (n,), or (n, size) of a sequence. ``values``: of each view what stands at its places, (n, width)."""
    columns: Columns = {}
    for used in plan.used:
        if used.text:
            strings = found[used.slot].texts[used.feature][places[used.slot]]
            columns[used.reference] = strings[:, 0] if used.single else strings
        else:
            columns[used.reference] = values[used.slot][:, used.span.start] if used.single else values[used.slot][:, used.span]
    return columns


def rows_missing(plan: ModelPlan, found: Sequence[Features], places: Places, n: int) -> NDArray[np.bool_]:
    """(n,): some feature that the model reads is missing."""
    lost = np.zeros(n, np.bool_)
    for used in plan.used:
        lost |= found[used.slot].statuses[places[used.slot], used.feature] == Status.MISSING
    return lost
