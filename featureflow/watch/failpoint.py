"""Named places where a test may end the process. Inert unless something armed is handed in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

Scoring = Literal[
    "scoring_placed",                      # where the group stands is known, nothing is read yet
    "scoring_polled",
    "features_read",
    "scored",                              # nothing is appended yet
    "scores_committed",                    # and the process does not know it yet
]
"""Of a model, in the order of its step."""

Alerting = Literal[
    "alerting_placed",
    "averages_restored",
    "alerting_polled",
    "folded",                              # averages and alerts in memory, nothing is appended yet
    "alerts_committed",
]
"""Of scores to averages and alerts."""

Delivering = Literal["delivering_polled", "delivered", "delivery_committed"]
"""Of alerts to the webhook."""

Name = Literal[Scoring, Alerting, Delivering]
NAMES: tuple[Name, ...] = tuple(dict.fromkeys(get_args(Name)))

Failpoint = Callable[[Name], None]
"""Called with the name of the place that is passed."""


def unarmed(name: Name) -> None:
    """Nothing happens."""
