"""The names that a definitions file imports are a promise."""

from __future__ import annotations

import featureflow

PUBLIC = """
    Alert
    Ensemble
    Entity
    Event
    Field
    Label
    Model
    Request
    Vector
    View
    abs
    approx_distinct
    approx_quantile
    count
    decayed_count
    decayed_mean
    decayed_sum
    diff
    first
    hopping
    is_null
    key
    last
    last_n
    len
    lifetime
    log1p
    max
    max_by
    maximum
    mean
    min
    min_by
    minimum
    rate
    session
    stddev
    sum
    time_since_last
    top_k
    tumbling
    variance
    when
"""


def test_the_package_gives_exactly_these_names() -> None:
    assert sorted(featureflow.__all__) == PUBLIC.split()
    assert all(hasattr(featureflow, name) for name in featureflow.__all__)
