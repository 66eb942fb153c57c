"""``make fuzz``: schemathesis makes requests up from /openapi.json, right ones and wrong ones, and looks at each answer.

    make fuzz REQUESTS=5000 SEED=7

The last line is one JSON object; the exit code is 0 where no answer was a fault of the server, each was one that the document describes, a
quarter were 2xx, and memory did not grow.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from fuzz.run import LEAST_EACH, fuzz


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="featureflow-fuzz-") as folder:
        found = fuzz(Path(folder), arguments.requests, arguments.seed, say=lambda text: print(text, file=sys.stderr, flush=True))
    least = min(LEAST_EACH, arguments.requests // (2 * len(found.operations)))
    print(json.dumps({**found.summary(), "seed": arguments.seed}))
    return 0 if found.good(least) else 1


if __name__ == "__main__":
    sys.exit(main())
