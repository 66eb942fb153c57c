"""A project of its own, embedded, with a worker and a scorer as processes; and every operation of its document, again and again."""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import hypothesis
import requests
import schemathesis
from processes import until
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.failures import FailureGroup
from world import embedded

LEAST_EACH = 1_000                         # of each operation
WRONG_SHARE = 0.25                         # requests that are made to be wrong
CHUNK = 200                                # requests that hypothesis makes up at a time: it looks back on all of them
WARM_SHARE = 0.1                           # of the requests, before memory is looked at: caches fill
GROWTH = 1.25                              # of memory from then to the end
GROWTH_MB = 24.0                           # ... or so much: a short run's caches still fill
SHOWN = 20
# What is looked at in each answer. Whether a body is taken where its schema says so is not: what a schema calls an integer may be written
# as 7.0, and it counts a string's characters, not its bytes (tests/unit/serve/test_openapi.py compares the two where they can agree).
LOOKED_AT = ("status_code_conformance", "content_type_conformance", "response_headers_conformance", "response_schema_conformance")
Say = Callable[[str], None]


@dataclass
class Found:
    """What came back."""

    operations: dict[str, Counter[int]] = field(default_factory=dict)      # operation -> status -> how often
    problems: Counter[str] = field(default_factory=Counter)        # what was said of an answer -> how often
    shed: Counter[str] = field(default_factory=Counter)            # of the scorer's own count, by reason
    rss_mb: dict[str, float] = field(default_factory=dict)
    wall_s: float = 0.0

    @property
    def statuses(self) -> Counter[int]:
        """status -> how often."""
        return sum(self.operations.values(), Counter())

    @property
    def requests(self) -> int:
        return self.statuses.total()

    @property
    def least_of_one(self) -> int:
        """Requests of the operation that was asked least."""
        return min(counts.total() for counts in self.operations.values())

    @property
    def shed_503(self) -> int:
        """Answers 503, each of which has a reason that is counted."""
        return self.statuses[503]

    @property
    def status_5xx(self) -> int:
        """Faults of the server."""
        return sum(n for status, n in self.statuses.items() if status >= 500 and status != 503)

    @property
    def share_2xx(self) -> float:
        return sum(n for status, n in self.statuses.items() if status < 300) / max(1, self.requests)

    def flat(self) -> bool:
        start, end = self.rss_mb["start"], self.rss_mb["end"]
        return end <= max(GROWTH * start, start + GROWTH_MB)

    def good(self, least: int) -> bool:
        """Whether it is as it should be, with at least so many requests of each operation."""
        counted = sum(self.shed.values()) >= self.shed_503
        enough = self.share_2xx >= 0.25 and self.least_of_one >= least
        return not self.status_5xx and not self.problems and counted and enough and self.flat()

    def summary(self) -> dict[str, Any]:
        return {
            "requests": self.requests, "status_5xx": self.status_5xx, "share_2xx": round(self.share_2xx, 4), "shed_503": self.shed_503,
            "shed_by_reason": dict(self.shed), "by_status": {str(s): n for s, n in sorted(self.statuses.items())},
            "operations": len(self.operations), "least_of_one": self.least_of_one,
            "by_operation": {name: {str(s): n for s, n in sorted(counts.items())} for name, counts in self.operations.items()},
            "rss_mb": self.rss_mb, "memory_flat": self.flat(), "problems": sum(self.problems.values()),
            "problems_by_kind": dict(self.problems.most_common(SHOWN)), "wall_s": round(self.wall_s, 1),
            "requests_per_s": round(self.requests / max(self.wall_s, 1e-9)),
        }  # fmt: skip


def fuzz(folder: Path, count: int, seed: int, say: Say = lambda text: None) -> Found:
    """``count`` requests or a few more, evenly over the operations. The same seed makes up the same requests of the same document."""
    found = Found()
    load_all_checks()
    with embedded(folder / "project") as world:
        world.featureflow("apply")
        world.add_model()
        process, scorer = world.serve()
        world.start("ingest")
        until(world.folded, "the worker has its partitions")
        url = f"http://127.0.0.1:{world.serve_port}"
        schema = schemathesis.openapi.from_dict(scorer.get("/openapi.json")[1])    # by its address it would leave that one out
        schema.config.update(base_url=url)
        operations = [made.ok() for made in schema.get_all_operations()]
        found.operations.update({operation.label: Counter() for operation in operations})
        began, marks = time.monotonic(), {"start": WARM_SHARE, "middle": 0.5, "end": 1.0}
        with requests.Session() as session:
            number = 0
            while found.requests < count:
                each = max(1, min(CHUNK, -(-(count - found.requests) // len(operations))))
                for operation in operations:
                    number += 1
                    _ask(operation, each, seed * 1_000_003 + number, session, found)
                    for name, share in marks.items():
                        if found.requests >= share * count and name not in found.rss_mb:
                            found.rss_mb[name] = _rss_mb(process.pid)
                say(f"{found.requests:,} requests, {dict(found.statuses)}, {sum(found.problems.values())} problems")
        found.wall_s = time.monotonic() - began
        found.rss_mb["end"] = _rss_mb(process.pid)
        assert process.running(), process.said()[-3_000:]
        found.shed.update(_shed(scorer.get("/metrics")[1]))
        for line in process.err().splitlines():
            if '"request_failed"' in line or "Traceback" in line:
                found.problems[line[:300]] += 1
    return found


def _ask(operation: Any, count: int, seed: int, session: requests.Session, found: Found) -> None:
    """So many of one operation: hypothesis ends early where it has made up every request that there is, and is begun again."""
    asked = 0

    def ask(case: Case) -> None:
        nonlocal asked
        if asked >= count:
            return
        asked += 1
        try:
            response = case.call(session=session)
        except requests.exceptions.RequestException as error:          # no answer at all
            found.problems[f"{operation.label}: {type(error).__name__}"] += 1
            return
        found.operations[operation.label][response.status_code] += 1
        try:
            case.validate_response(response, checks=CHECKS.get_by_names(list(LOOKED_AT)))
        except FailureGroup as failures:
            for problem in failures.exceptions:
                found.problems[f"{operation.label} {response.status_code}: {type(problem).__name__}: {problem}"[:300]] += 1

    modes = [(GenerationMode.POSITIVE, 1 - WRONG_SHARE), (GenerationMode.NEGATIVE, 1.0)]
    while asked < count:
        for mode, share in tuple(modes):
            if asked >= count:
                return
            settings = hypothesis.settings(
                max_examples=max(1, int((count - asked) * share)), database=None, deadline=None, phases=[hypothesis.Phase.generate],
                suppress_health_check=list(hypothesis.HealthCheck),
            )  # fmt: skip
            try:
                hypothesis.seed(seed + asked)(settings(hypothesis.given(operation.as_strategy(generation_mode=mode))(ask)))()
            except hypothesis.errors.Unsatisfiable:        # what takes nothing cannot be asked wrongly
                modes.remove((mode, share))


def _rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * resource.getpagesize() / 1e6, 1)


def _shed(text: str) -> dict[str, int]:
    lines: Iterable[str] = chain(text.splitlines())
    return {
        line.split('"')[1]: int(float(line.rsplit(" ", 1)[1])) for line in lines if line.startswith('featureflow_shed_total{')
    }
