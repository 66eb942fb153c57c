"""What was done to whom and when, told as it happens and kept for whoever must explain a difference."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

SHOWN = 60                                 # lines about one partition, at most


@dataclass
class Operations:
    """``folder`` holds what each member notes of its commits: lines of ``instant member source/partition from..to outcome``."""

    folder: Path
    began: float = field(default_factory=time.time)
    lines: list[tuple[float, str]] = field(default_factory=list)

    def note(self, what: str) -> None:
        self.lines.append((time.time(), what))
        print(f"{time.time() - self.began:7.1f} s  {what}", file=sys.stderr, flush=True)

    def around(self, difference: str) -> list[str]:
        """Of the partitions that a difference names: what was done, and the commits that went otherwise or came right after."""
        places = set(re.findall(r"\b(?:ride|tip)/\d+", difference))
        faults = [at for at, _ in self.lines]
        found = [(at, what) for at, what in self.lines]
        for file in sorted(self.folder.glob("*.operations")):
            for line in file.read_text().splitlines():
                instant, _, rest = line.partition(" ")
                near = any(0 <= float(instant) - at < 0.5 for at in faults)
                if places & set(rest.split()) and (near or not rest.endswith("committed")):
                    found.append((float(instant), rest))
        return [f"{at - self.began:9.3f} s  {what}" for at, what in sorted(found)[-SHOWN:]]
