"""What commands print: for people on a terminal, or one JSON document on standard output with ``--json``.

Progress and warnings always go to standard error, so that standard output can be piped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table


class Output:
    def __init__(self, *, json: bool) -> None:
        self.json = json
        self._out = Console(highlight=False, soft_wrap=True)
        self._err = Console(stderr=True, highlight=False)

    def say(self, text: str) -> None:
        """A line for a person; nothing with ``--json``."""
        if not self.json:
            self._out.print(text, markup=False)

    def warn(self, text: str) -> None:
        self._err.print(text, style="yellow", markup=False)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        if self.json:
            return
        table = Table(*columns, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*(str(cell) for cell in row))
        self._out.print(table)

    def result(self, value: Any) -> None:
        """The command's answer as JSON; nothing without ``--json``."""
        if self.json:
            sys.stdout.write(msgspec.json.encode(value).decode() + "\n")

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        with Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._err,
            transient=True,
            disable=self.json,
        ) as progress:
            yield progress
