"""What commands print: for people on a terminal, or one JSON document on standard output with ``--json``.

Progress and warnings always go to standard error, so that standard output can be piped. What draws them is imported where it is
needed: consumers need none of it, and are to be back in a moment.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import msgspec
from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress

PIPED_COLUMNS = 10_000  # a table that is not for a terminal is as wide as what it holds


def counted(number: int, noun: str) -> str:
    """``1 model``, ``2,000 rows``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def said_of(error: OSError) -> str:
    """Of a file or folder that cannot be had, which ``error`` names."""
    return f"{error.filename}: {error.strerror}. Name another file or folder, or give this user the right to it"


class Output:
    """What one command prints."""

    def __init__(self, *, json: bool) -> None:
        self.json = json
        self._out = _console(sys.stdout)
        self._err = _console(sys.stderr)

    def say(self, text: str) -> None:
        """A line for a person; nothing with ``--json``."""
        if not self.json:
            self._out.print(text, markup=False)

    def warn(self, text: str) -> None:
        """A line on standard error, with ``--json`` too."""
        self._err.print(text, style="yellow", markup=False)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Rows under these headings; nothing with ``--json``. A row has one cell for each column, shown as ``str`` has it."""
        if self.json:
            return
        from rich.markup import escape
        from rich.table import Table

        table = Table(*map(escape, columns), box=None, pad_edge=False, header_style="bold")
        table.columns[-1].overflow = "fold"
        for row in rows:
            assert len(row) == len(columns), f"{len(row)} cells under {len(columns)} headings"
            table.add_row(*(escape(str(cell)) for cell in row))
        self._out.print(table)

    def result(self, value: Any) -> None:
        """The command's answer as JSON; nothing without ``--json``."""
        if self.json:
            sys.stdout.write(msgspec.json.encode(value).decode() + "\n")

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Bars on standard error while the block runs; none where nobody would see them."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        with Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._err,
            transient=True,
            disable=self.json or not sys.stderr.isatty(),
        ) as progress:
            yield progress


def _console(file: TextIO) -> Console:
    return Console(file=file, highlight=False, soft_wrap=True, width=None if file.isatty() else PIPED_COLUMNS)
