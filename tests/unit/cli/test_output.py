"""What a person or a pipe gets to read."""

from __future__ import annotations

import pytest

from featureflow.cli.output import Output, counted


def test_a_table_in_a_pipe_is_cut_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    cells = ("user_now:" + "x" * 100, "a problem that is told " + "at length, " * 50)
    Output(json=False).table(("feature", "problem"), [cells, ("short", "none")])
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split() == ["feature", "problem"]
    assert first.split("  ")[0] == cells[0]
    assert first.rstrip().endswith(cells[1].rstrip())
    assert second.split() == ["short", "none"]


def test_what_stands_in_brackets_is_shown_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    cells = ("[serve]", "'prot' is no key of [serve]; write [bold]port[/bold]")
    Output(json=False).table(("[part]", "said"), [cells])
    assert capsys.readouterr().out.split() == ["[part]", "said", *" ".join(cells).split()]


def test_one_is_not_many() -> None:
    assert [counted(n, "row") for n in (0, 1, 2, 2_000)] == ["0 rows", "1 row", "2 rows", "2,000 rows"]
