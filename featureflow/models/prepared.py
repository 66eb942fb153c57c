"""A graph that was optimized already, see ``models.prepare``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Prepared:
    """A graph to load by its path, checked, and the bytes of its files."""

    path: Path
    bytes: int
