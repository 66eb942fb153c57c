"""What type checkers say about definitions files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent
RIGHT, WRONG = (HERE / "flights.py", HERE / "kinds.py", HERE / "kept.py", HERE / "typing_right.py"), HERE / "typing_wrong.py"


def mypy(path: Path, cache: Path) -> tuple[int, str]:
    options = ["--strict", "--no-warn-unused-configs", f"--cache-dir={cache}", "--config-file=", "--no-error-summary"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_mypy_strict_accepts_a_right_file_and_marks_exactly_the_wrong_lines(tmp_path: Path) -> None:
    for right in RIGHT:
        assert mypy(right, tmp_path) == (0, "")
    _, said = mypy(WRONG, tmp_path)
    found = {int(line) for line in re.findall(rf"{WRONG.name}:(\d+): error", said)}
    expected = {number for number, line in enumerate(WRONG.read_text().splitlines(), 1) if "# wrong" in line}
    assert found == expected, said


def pyright(*paths: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, *map(str, paths)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return [one["message"] for one in json.loads(done.stdout)["generalDiagnostics"]]


def test_pyright_accepts_a_right_file() -> None:
    assert pyright(*RIGHT) == []


def test_pyright_knows_a_vector_from_a_number_and_from_a_string(tmp_path: Path) -> None:
    """To mypy it is Any."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        (HERE / "kinds.py").read_text()
        + "more = Visit.taste + 1\n"
        + 'Visit(at=datetime.now(UTC), user="u", channel="web", plan=None, taste="abc", mood=None)\n'
    )
    first, second = pyright(wrong)
    assert 'Operator "+" not supported' in first
    assert 'parameter "taste" of type "Vector"' in second
