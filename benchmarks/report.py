"""What a worker process of the ingest benchmark says of itself when it has ended."""

from __future__ import annotations

import msgspec


class Report(msgspec.Struct, frozen=True):
    """Of the events that were folded after joining. ``half_mb``: the memory in use half way, of a rebuild."""

    events: int
    early_events: int                      # folded while it joined
    wall_s: float
    cpu_s: float
    commits: int
    longest_commit_interval_s: float
    stages_s: dict[str, float]
    rss_mb: float
    half_mb: float
