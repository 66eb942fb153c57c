"""What one caller may hold while others do, against the rule worked out anew for each question."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featureflow.serve.dynamic_threshold import ALPHA, DynamicThreshold

CALLERS = ("a", "b", "c")


def fill(held: DynamicThreshold, *callers: str) -> list[int]:
    """Each takes one after the other, until none gets more; what each then has."""
    while sum([held.take(caller) for caller in callers]):
        pass
    return [held.by_caller.get(caller, 0) for caller in callers]


def test_one_caller_alone_gets_eight_ninths_and_the_next_as_much_of_the_rest() -> None:
    held = DynamicThreshold(8_100)
    assert fill(held, "a") == [7_200]
    assert held.has_room()
    assert fill(held, "b") == [800]
    assert fill(held, "c") == [88]                      # of 100
    assert (held.taken, held.most - held.taken) == (8_088, 12)


@pytest.mark.parametrize("n", [1, 2, 5, 20, 100])
def test_callers_who_all_want_more_come_to_the_same_share(n: int) -> None:
    held = DynamicThreshold(100_000)
    for had in fill(held, *map(str, range(n))):
        assert had == pytest.approx(100_000 * ALPHA / (1 + n * ALPHA), abs=ALPHA)


def test_a_caller_who_has_nothing_may_have_the_last_there_is_and_nobody_more() -> None:
    held = DynamicThreshold(1)
    assert held.take("a")
    assert not held.take("b")
    assert not held.has_room()
    held.give_back("a")
    assert held.take("b")
    assert not DynamicThreshold(10).take("a", 11)


def test_a_share_grows_as_others_give_back() -> None:
    held = DynamicThreshold(900)
    fill(held, "a")
    fill(held, "b")
    assert (held.by_caller, held.take("b")) == ({"a": 800, "b": 88}, False)
    held.give_back("a", 800)
    assert not held.take("b", 713)
    assert held.take("b", 712)
    held.give_back("b", held.by_caller["b"])
    assert held.by_caller == {}


@given(st.integers(1, 60), st.lists(st.tuples(st.sampled_from(CALLERS), st.integers(1, 20), st.booleans()), max_size=60))
def test_nobody_holds_more_than_may_be_and_what_is_given_back_is_forgotten(
    most: int, steps: list[tuple[str, int, bool]]
) -> None:
    held, sizes = DynamicThreshold(most), []            # what is held, one by one
    for caller, size, take in steps:
        if take:
            left, own = most - sum(had for _, had in sizes) - size, sum(had for whose, had in sizes if whose == caller)
            may = left >= 0 and (not own or own + size <= ALPHA * left)
            assert (held.has_room(size), held.take(caller, size)) == (left >= 0, may)
            if may:
                sizes.append((caller, size))
        elif sizes:
            whose, had = sizes.pop(size % len(sizes))
            held.give_back(whose, had)
        totals: Counter[str] = Counter()
        for whose, had in sizes:
            totals[whose] += had
        assert (held.by_caller, held.taken) == (dict(totals), totals.total())
        assert held.taken <= most
