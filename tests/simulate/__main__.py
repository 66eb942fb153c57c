"""``python -m simulate --runs 10000 --seed 1``: so many worlds; the last line is JSON. Ends with 1 where a value was wrong or something
that must happen never did, and shows the first runs that went wrong, step by step.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import random
import sys
import time
from collections import Counter

import structlog

from simulate.conductor import Outcome, run
from simulate.report import Report, shown

CHUNK = 20
SHOWN = 3


def seeds(runs: int, seed: int) -> list[int]:
    """The first is the given one, so that a run can be had alone; another seed gives others altogether."""
    draw = random.Random(seed)
    return [seed, *(draw.getrandbits(48) for _ in range(runs - 1))][:runs]


def quiet() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def some(chunk: list[int]) -> list[Outcome]:
    return [run(seed) for seed in chunk]


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulate", description="The worker in made-up worlds, against the oracle.")
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    asked = parser.parse_args()
    began, report, all_seeds = time.monotonic(), Report(asked.seed), seeds(asked.runs, asked.seed)
    chunks = [all_seeds[start : start + CHUNK] for start in range(0, len(all_seeds), CHUNK)]
    told = began
    with multiprocessing.Pool(min(asked.jobs, len(chunks)), quiet) as pool:
        for outcomes in pool.imap_unordered(some, chunks):
            before = len(report.wrong)
            report.add(outcomes)
            for outcome in report.wrong[before:]:
                print(shown(outcome) if len(report.wrong) <= SHOWN else f"seed {outcome.seed}: {outcome.wrong[0]}", flush=True)
            if time.monotonic() - told > 20:
                told = time.monotonic()
                print(f"{report.runs} runs, {len(report.wrong)} wrong", file=sys.stderr, flush=True)
    for kind, count in sorted(Counter(report.happened).items()):
        print(f"{count:>9,} {kind}")
    for kind in report.missing:
        print(f"NEVER HAPPENED in {report.runs} runs: {kind}")
    print(report.line(time.monotonic() - began))
    return 1 if report.wrong or report.missing else 0


if __name__ == "__main__":
    sys.exit(main())
