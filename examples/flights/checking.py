"""Compare what the server answers with what the oracle says it must be."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from http_client import Scorer

from oracle import VIEWS, Oracle

PER_VIEW = 220  # entities checked per view and log position


@dataclass
class Tally:
    entities: int = 0
    nonempty: int = 0  # entities with at least one event in some window
    values: int = 0
    mismatches: int = 0
    examples: list[str] = field(default_factory=list)


def check(scorer: Scorer, oracle: Oracle, at_us: int, tally: Tally, seed: int) -> None:
    """All features of a sample of entities of every view, at one instant and wherever the log stands now."""
    pick = random.Random(seed)
    for view in VIEWS:
        known = oracle.ids(view)
        ids = pick.sample(known, min(PER_VIEW, len(known)))
        answer = scorer.post(f"/v1/features/{view}", {"entities": ids, "at": at_us})
        applied = {
            source: {int(p): offset for p, offset in places.items()} for source, places in answer["applied"].items()
        }
        for row in answer["rows"]:
            expected = oracle.features(view, row["id"], at_us, applied)
            got = dict(zip(answer["features"], row["values"], strict=True))
            tally.entities += 1
            tally.nonempty += any(value not in (None, 0.0, [None] * 8) for value in expected.values())
            for name, value in expected.items():
                tally.values += 1
                if got[name] != value:
                    tally.mismatches += 1
                    if len(tally.examples) < 5:
                        tally.examples.append(f"{view} {row['id']} {name}: served {got[name]}, must be {value}")
