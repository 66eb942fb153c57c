"""``make fuzz``, in short: each operation of the document asked a few times, rightly and wrongly."""

from __future__ import annotations

from pathlib import Path

from fuzz.run import fuzz

REQUESTS = 120


def test_requests_made_up_from_the_document_are_answered_as_it_says(tmp_path: Path) -> None:
    found = fuzz(tmp_path, REQUESTS, seed=3)
    assert not found.problems
    assert found.good(least=REQUESTS // (2 * len(found.operations))), found.summary()
