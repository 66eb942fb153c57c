"""What happened in many runs, and whether everything did that should have."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import get_args

from featureflow.ingest import failpoint
from simulate.conductor import Outcome

LARGE = 1_000                              # runs, from which on nothing may be missing
MUST_HAPPEN = (
    *(f"crashes {name}" for name in get_args(failpoint.Online)),
    "appends that failed", "claims cut short", "commits", "departures", "duplicates", "expulsions", "late claims", "late commits",
    "lost replies", "poison records", "rebalances", "records future", "records late", "records sent twice", "refused: dropped",
    "refused: expired", "refused: fenced", "refused: offset", "rollbacks", "rollbacks of one bucket", "slices of the past",
    "time jumps", "unreachable", "commits on their way at once", "commits that arrive before their answer is waited for",
    "values present", "views applied", "views dropped", "views rebuilt", "zombies",
)  # fmt: skip


class Report:
    def __init__(self, seed: int) -> None:
        self.seed, self.runs, self.wrong, self.happened = seed, 0, list[Outcome](), Counter[str]()

    def add(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            self.runs += 1
            self.happened.update(outcome.happened)
            if outcome.wrong:
                self.wrong.append(outcome)

    @property
    def missing(self) -> list[str]:
        """What never happened, of what must in a large run: then it shows less than it says."""
        return [kind for kind in MUST_HAPPEN if not self.happened[kind]] if self.runs >= LARGE else []

    def line(self, seconds: float) -> str:
        happened = self.happened
        return json.dumps({
            "runs": self.runs,
            "wrong": len(self.wrong),
            "seed": self.seed,
            "events": happened["events"],
            "commits": happened["commits"],
            "crashes": happened["crashes"],
            "zombies": happened["zombies"],
            "rollbacks": happened["rollbacks"] + happened["rollbacks of one bucket"],
            "lost_replies": happened["lost replies"],
            "duplicates": happened["duplicates"],
            "refused": sum(count for kind, count in happened.items() if kind.startswith("refused")),
            "values": happened["values present"],
            "missing": self.missing,
            "seconds": round(seconds, 1),
        })


def shown(outcome: Outcome) -> str:
    """A run that went wrong, for a person to read: what is wrong, and all that happened."""
    lines = [f"seed {outcome.seed}:", *outcome.trace, *(f"WRONG: {problem}" for problem in outcome.wrong[:20])]
    return "\n".join([*lines, f"again: make simulate RUNS=1 SEED={outcome.seed}"])
