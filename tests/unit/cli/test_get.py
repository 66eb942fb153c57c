"""``featureflow get --at``: what is said of values that count more than the instant."""

from __future__ import annotations

import numpy as np

from featureflow.cli.get import ahead
from featureflow.clock import NO_TIME_US

ASKED_US = 1_700_000_000_000_000


def test_values_that_count_newer_events_than_the_instant_say_up_to_when() -> None:
    times = np.array([[NO_TIME_US, ASKED_US - 1], [ASKED_US, ASKED_US + 90_000_000]])
    assert "up to 2023-11-14T22:14:50+00:00, after the instant" in ahead(times, ASKED_US)


def test_values_of_events_up_to_the_instant_say_nothing() -> None:
    assert ahead(np.array([[NO_TIME_US, ASKED_US]]), ASKED_US) == ""
    assert ahead(np.empty((0, 2), np.int64), ASKED_US) == ""
