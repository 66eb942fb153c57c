"""From when an event could have been known, and what is not enough to say so."""

from __future__ import annotations

import numpy as np
import pytest
from trips import ARRIVAL, DEPARTURE, events

from featureflow.errors import RequestError
from featureflow.train.visibility import NEVER_US, Visibility

EVENTS = events(41, 0, 50)


def test_a_named_field_says_when_and_null_there_is_never() -> None:
    seen = Visibility({"departure": "known"}).seen_us("departure", EVENTS)
    known = EVENTS.columns["known"]
    null = np.isnan(known)
    assert null.any()
    assert (seen[null] == NEVER_US).all()
    np.testing.assert_array_equal(seen[~null], known[~null].astype(np.int64))


def test_a_delay_counts_from_the_field_or_from_the_event_time() -> None:
    both = Visibility({"departure": "known"}, {"*": 5, "arrival": 7})
    some = ~np.isnan(EVENTS.columns["known"])
    np.testing.assert_array_equal(both.seen_us("departure", EVENTS)[some], EVENTS.columns["known"][some].astype(np.int64) + 5)
    np.testing.assert_array_equal(both.seen_us("arrival", EVENTS), EVENTS.times_us + 7)
    assert both.columns("departure") == ("known",)
    assert both.columns("arrival") == ()


@pytest.mark.parametrize(
    "visibility",
    [
        Visibility(),
        Visibility({"departure": "known"}),
        Visibility({"departure": "known", "arrival": "nothing"}),
        Visibility({"departure": "known", "arrival": "delay"}),
        Visibility(delay_us={"*": -1}),
    ],
)
def test_what_does_not_say_when_is_refused(visibility: Visibility) -> None:
    with pytest.raises(RequestError):
        visibility.check([DEPARTURE, ARRIVAL])


def test_every_source_may_be_told_of_at_once() -> None:
    Visibility(delay_us={"*": 0}).check([DEPARTURE, ARRIVAL])
