"""The columns in which a commit's writes travel."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featureflow.store.online.writes import Patch, StateWrite, Writes

PATCHED = st.builds(
    StateWrite,
    st.binary(min_size=1), st.integers(0, 2**32 - 1), st.binary(max_size=60), st.integers(0, 2**60),
    st.lists(st.builds(Patch, st.integers(0, 2**32 - 1), st.binary()), min_size=1, max_size=4).map(tuple),
    st.none(), st.integers(0, 2**60),
)  # fmt: skip
WHOLE = st.builds(
    StateWrite, st.binary(min_size=1), st.integers(0, 9), st.binary(max_size=9), st.integers(0, 9), st.just(()), st.binary()
)
SOME = st.lists(st.one_of(PATCHED, WHOLE), max_size=6)


@given(SOME, SOME)
def test_columns_say_what_the_writes_said(first: list[StateWrite], then: list[StateWrite]) -> None:
    joined = Writes.of(first) + Writes.of(then)
    assert list(joined) == first + then
    assert len(joined) == len(first) + len(then)
    assert joined == Writes.of(first + then)


def reach(write: StateWrite) -> bool:
    """Whether each patch begins where the value ends or before, patch by patch."""
    end = write.expected_bytes
    for patch in write.patches:
        if patch.position > end or not patch.data:
            return False
        end = max(end, patch.position + len(patch.data))
    return True


SMALL = st.builds(
    lambda expected, patches: (expected, tuple(Patch(at, bytes(size)) for at, size in patches)),
    st.integers(0, 6), st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), min_size=1, max_size=4),
)  # fmt: skip


@given(st.lists(SMALL, max_size=4))
def test_a_patch_that_leaves_a_hole_or_holds_nothing_is_refused_wherever_it_stands(each: list[tuple[int, tuple[Patch, ...]]]) -> None:
    writes = [StateWrite(b"%d" % i, expected, b"head", 0, patches) for i, (expected, patches) in enumerate(each)]
    writes.insert(len(writes) // 2, StateWrite(b"whole", 3, b"", 0, whole=b""))
    if all(map(reach, writes)):
        Writes.of(writes).check()
    else:
        with pytest.raises(ValueError, match="leaves a hole"):
            Writes.of(writes).check()


@pytest.mark.parametrize("column", ["heads", "headers", "places", "data", "keys"])
def test_columns_that_contradict_each_other_are_refused(column: str) -> None:
    one = Writes.of([StateWrite(b"a", 4, b"head", 0, (Patch(4, b"row"),))])
    two = one + Writes.of([StateWrite(b"b", 4, b"head", 0, (Patch(4, b"row"),))])
    with pytest.raises(ValueError, match="described|no patch"):
        replace(two, **{column: getattr(one, column)}).check()
