"""``make bench-ingest``: events into exactly-once windowed features, on real Kafka, Redis and MySQL, row by row.

    make bench-ingest BENCH_ARGS="--rows uniform,zipf --events 300000"
    make bench-ingest PEERS=1                  also Flink SQL, Bytewax and Quix Streams, on windows that they have too

The last line is one JSON object: the first row's figures at its top, beside those of the worker that one writes by hand, and
all rows under ``rows``.
"""

from __future__ import annotations

import argparse
import json

from noise import noise
from peers.run import ENGINES
from peers.run import rows as peer_rows
from rows import ROWS, SCALED, say

from real_servers import Servers

DATABASE = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS), help="some of " + ", ".join((*ROWS, *SCALED)))
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--peers", default="", help=f"other engines to run on the same job: some of {', '.join(ENGINES)}, or 1 for all")
    arguments = parser.parse_args()
    chosen = arguments.rows.split(",")
    every = ROWS | SCALED
    if unknown := [name for name in chosen if name not in every]:
        parser.error(f"there is no row {unknown[0]!r}; there are {', '.join(every)}")
    servers = Servers.find(DATABASE)
    rows, found = [], {}
    first_noise = noise()
    for name in chosen:
        before = noise()
        figures = every[name](servers.again(), arguments.events)
        rows.append({"row": name, **figures, "noise_before": before, "noise_after": noise()})
        found[name] = figures
        say(json.dumps(rows[-1]))
    if arguments.peers:
        engines = list(ENGINES) if arguments.peers == "1" else arguments.peers.split(",")
        rows += peer_rows(servers.again(), arguments.events, engines)
    servers.empty()
    ratio = {}
    if "by-hand" in found and "uniform" in found:
        ratio = {
            "ratio": round(float(str(found["by-hand"]["by_hand_cpu_us_per_event"])) / float(str(found["uniform"]["cpu_us_per_event"])), 2)
        }
    top = found.get("by-hand", {}) | found.get("freshness", {}) | found[chosen[0]]
    print(json.dumps({
        **top, **ratio, "rows": rows, "noise_before": first_noise, "noise_after": noise(), "versions": servers.versions,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
