"""Feature values for people to read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC

import numpy as np
from numpy.typing import NDArray

from featureflow import limits
from featureflow.clock import from_us
from featureflow.kernel.finalize import Status
from featureflow.reading.features import Features
from featureflow.reading.plan import ModelPlan
from featureflow.serve.wire.v1 import FeatureValue

STATUS_NAMES = [status.name.lower() for status in sorted(Status)]


def explain(
    plan: ModelPlan, found: Sequence[Features], places: Sequence[NDArray[np.intp]], rows: Iterable[int]
) -> list[dict[str, FeatureValue]]:
    """Per row, what the model read: ``view:feature`` -> value, status and event time.

    ``found`` and ``places`` per view of the model: its features, and where each row's entity stands in them.
    """
    return [
        {u.reference: feature_value(found[u.slot], int(places[u.slot][row]), u.feature) for u in plan.used}
        for row in rows
    ]


def feature_value(found: Features, row: int, feature: int) -> FeatureValue:
    """One feature of one entity, for people to read."""
    event_time = int(found.event_times_us[row, feature])
    return FeatureValue(
        found.shown(row, feature),
        STATUS_NAMES[found.statuses[row, feature]],
        None if abs(event_time) > limits.INTEGER_ABS else rfc3339(event_time),  # no event's: NO_TIME_US, or damage
    )


def rfc3339(us: int) -> str:
    """Microseconds since 1970 UTC as RFC 3339, to the microsecond."""
    return from_us(us).astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
