"""Every wrong file says where it is wrong, what is wrong, and what to write instead.

After a change of wording: ``python tests/unit/define/test_golden.py`` writes the .txt files anew; read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from featureflow.define import project
from featureflow.errors import DefinitionError

GOLDEN = Path(__file__).parent / "golden"
FILES = sorted(path.name for path in GOLDEN.glob("*.py"))


def message(name: str) -> str:
    try:
        project.load(name)
    except DefinitionError as error:
        return f"{error}\n"
    return "nothing is wrong\n"


def test_there_are_wrong_files_of_many_kinds() -> None:
    assert len(FILES) >= 40
    assert {path.stem for path in GOLDEN.glob("*.txt")} == {Path(name).stem for name in FILES}


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_file_is_refused_with_its_place_and_what_to_write(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN)
    said = message(name)
    assert said == (GOLDEN / name).with_suffix(".txt").read_text()
    assert said.startswith(f"{name}:")
    assert "\n  Write: " in said


if __name__ == "__main__":
    os.chdir(GOLDEN)
    for wrong in FILES:
        Path(wrong).with_suffix(".txt").write_text(message(wrong))
