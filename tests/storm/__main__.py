"""``python -m storm --kills N --seed S``: what it does on standard error as it goes, one JSON line last."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from watched import GUARDS

from storm.members import cold, warm
from storm.run import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="SIGKILLs of consumers, at least")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--warm", action="store_true", help="fork consumers that have imported everything")
    parser.add_argument("--without", choices=sorted(GUARDS), default="", help="workers that lack this guard: it must end badly")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="featureflow-storm-") as folder:
        launch = warm if chosen.warm else cold
        report = run(Path(folder), kills=chosen.kills, seed=chosen.seed, launch=launch, without=chosen.without)
    for problem in report.problems:
        print(f"FAILED: {problem}", file=sys.stderr)
    print(json.dumps(report.document()))
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
