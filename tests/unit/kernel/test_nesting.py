"""How deep a text nests is told without decoding it, whatever its strings hold and wherever it breaks off."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featureflow import limits
from featureflow.kernel.nesting import FLAT_BYTES, is_too_deep

MOST = limits.JSON_DEPTH
TEXTS = st.text(alphabet='a"\\[]{},:é')
VALUES = st.recursive(st.none() | st.integers() | TEXTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner))


def naive(text: bytes) -> int:
    """The deepest place, byte by byte."""
    depth = deepest = 0
    inside = escaped = False
    for byte in text:
        if escaped:
            escaped = False
        elif byte == ord("\\"):
            escaped = True
        elif byte == ord('"'):
            inside = not inside
        elif not inside and byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif not inside and byte in b"]}":
            depth -= 1
    return deepest


def nested(levels: int, innermost: str = "1", opening: str = "[", closing: str = "]") -> bytes:
    return (opening * levels + innermost + closing * levels).encode()


@pytest.mark.parametrize("member", [("[", "]"), ('{"a":', "}")])
def test_the_limit_itself_is_not_too_deep_and_one_more_is(member: tuple[str, str]) -> None:
    for filler in ("1", '"' + "x" * FLAT_BYTES + '"'):
        assert not is_too_deep(nested(MOST, filler, *member))
        assert is_too_deep(nested(MOST + 1, filler, *member))


def test_brackets_in_strings_and_beside_each_other_are_no_levels() -> None:
    assert not is_too_deep(json.dumps(["[" * 10_000, "{" * 10_000]).encode())
    assert not is_too_deep(json.dumps(['\\"' * 500 + "[" * 10_000]).encode())
    assert not is_too_deep(b"[" + b"[]," * 10_000 + b"[]]")
    assert is_too_deep(json.dumps(["]" * 10_000]).encode()[:-1] + b"," + b"[" * MOST)


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000, b'["' + b'\\"' * 100_000, b'[""' * 1_000, b'["\\\\"' * 1_000])
def test_what_breaks_off_is_looked_at_as_far_as_it_goes(text: bytes) -> None:
    assert is_too_deep(text) == (naive(text) > MOST)


@given(VALUES, st.integers(MOST - 3, MOST + 3), st.integers(0, 40), st.binary(max_size=6))
def test_it_is_what_counting_byte_by_byte_gives(value: Any, levels: int, cut: int, junk: bytes) -> None:
    whole = nested(levels, json.dumps([value, "x" * FLAT_BYTES], ensure_ascii=False))
    for text in (whole, whole[: len(whole) - cut], whole[:levels] + junk + whole[levels:]):
        if not _breaks_an_escape(text):
            assert is_too_deep(text) == (naive(text) > MOST)


def _breaks_an_escape(text: bytes) -> bool:
    """A backslash outside of a string, which is in no JSON: there is no right answer to what follows it."""
    inside = escaped = False
    for byte in text:
        if escaped:
            escaped = False
        elif byte == ord("\\"):
            if not inside:
                return True
            escaped = True
        elif byte == ord('"'):
            inside = not inside
    return False
