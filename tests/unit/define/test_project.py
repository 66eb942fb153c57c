from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from featureflow.define import project, spec
from featureflow.errors import DefinitionError

FLIGHTS = Path(__file__).parent / "flights.py"


def test_the_definitions_come_in_the_order_of_the_file() -> None:
    loaded = project.load(FLIGHTS)
    assert [one.name for one in loaded.entities] == ["carrier", "airport", "aircraft"]
    assert [one.name for one in loaded.sources] == ["departure", "arrival"]
    assert [one.name for one in loaded.views] == ["carrier_now", "origin_now", "aircraft_now"]
    assert [one.name for one in loaded.requests] == ["ask"]
    assert [one.name for one in loaded.models[0].inputs] == [
        "trend", "late_share", "origin_now:worst_3h", "aircraft_now:last_delays", "hour",
    ]  # fmt: skip


def test_a_project_survives_its_way_through_json() -> None:
    loaded = project.load(FLIGHTS)
    assert msgspec.json.decode(msgspec.json.encode(loaded), type=spec.Project) == loaded


def test_loading_leaves_nothing_behind_and_gives_the_same_again(tmp_path: Path) -> None:
    before = set(sys.modules)
    first = project.load(FLIGHTS)
    copy = tmp_path / "elsewhere.py"
    copy.write_text(FLIGHTS.read_text())
    assert project.load(copy) == first
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('over=("3h",)', 'over=("4h",)'),
        ("worst = max(", "worst = mean("),
        ("max(Departure.delay_min,", "max(Departure.delay_min, where=Departure.delay_min > 0,"),
        ('topic="departures"', 'topic="leavings"'),
        ('time="left_at", disorder="10m"', 'time="left_at", disorder="11m"'),
        ('topic="departures", ', 'topic="departures", keyed_by="origin", '),
        ("    delay_min: Field[float]\n\nclass Arrival", "    delay_min: Field[float | None]\n\nclass Arrival"),
        ("origin: Field[str] = key(Airport)", "origin: Field[str | None] = key(Airport)"),
    ],
)
def test_a_change_of_meaning_changes_the_version_of_the_views_that_it_touches(
    tmp_path: Path, old: str, new: str
) -> None:
    assert versions(tmp_path, old, new)["origin_now"] != versions(tmp_path, "", "")["origin_now"]
    assert versions(tmp_path, old, new)["aircraft_now"] == versions(tmp_path, "", "")["aircraft_now"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("class Departure(", "# what leaves\nclass Departure("),
        ('over=("3h",)', 'over=("3h",), default=0.0'),
        ("worst = max", "worst_delay = max"),
        (
            "    delay_min: Field[float]\n\nclass Arrival",
            "    delay_min: Field[float]\n    gate: Field[str]\n\nclass Arrival",
        ),
    ],
)
def test_presentation_and_unread_fields_leave_the_versions_alone(tmp_path: Path, old: str, new: str) -> None:
    assert versions(tmp_path, old, new) == versions(tmp_path, "", "")


def versions(folder: Path, old: str, new: str) -> dict[str, str]:
    text = FLIGHTS.read_text()
    changed = text.replace(old, new, 1)
    assert not old or changed != text
    if "worst_delay" in new:
        changed = changed.replace("OriginNow.worst[", "OriginNow.worst_delay[")
    if "4h" in new:
        changed = changed.replace('["3h"]', '["4h"]')
    path = folder / "features.py"
    path.write_text(changed)
    return {view.name: view.version for view in project.load(path).views}


def test_a_file_with_lazy_annotations_loads_the_same(tmp_path: Path) -> None:
    lazy = tmp_path / "lazy.py"
    lazy.write_text("from __future__ import annotations\n" + FLIGHTS.read_text())
    assert project.load(lazy) == project.load(FLIGHTS)


def test_a_file_that_is_not_there_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="cannot be read: No such file"):
        project.load(tmp_path / "absent.py")


def test_an_error_in_a_file_says_so_from_wherever_it_is_raised(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("from featureflow import Entity\n\n\ndef one() -> float:\n    return 1 / 0\n\n\none()\n")
    with pytest.raises(DefinitionError, match=r"broken\.py:5: ZeroDivisionError"):
        project.load(path)


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "features.py"
    for line, text in ((2, "from featureflow import *\nx = nowhere\n"), (4, "from featureflow import *\n\n\nx = nowhere\n")):
        path.write_text(text)
        with pytest.raises(DefinitionError) as caught:
            project.load(path)
        assert caught.value.line == line


def test_an_alias_is_not_a_second_class(tmp_path: Path) -> None:
    path = tmp_path / "features.py"
    path.write_text(FLIGHTS.read_text() + "\n\nFlight = Departure\n")
    assert project.load(path) == project.load(FLIGHTS)


def test_a_script_that_defines_nothing_is_refused_before_it_runs(tmp_path: Path) -> None:
    path, ran = tmp_path / "produce.py", tmp_path / "ran"
    path.write_text(f"import json\nfrom pathlib import Path\n\nPath({str(ran)!r}).touch()\n")
    with pytest.raises(DefinitionError, match=r"produce\.py:1: this is no definitions file.*\n.*project\.definitions"):
        project.load(path)
    assert not ran.exists()


def test_a_file_may_get_all_its_classes_from_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "of_flights.py").write_text(FLIGHTS.read_text())
    (tmp_path / "features.py").write_text("from of_flights import *\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert project.load(tmp_path / "features.py") == project.load(FLIGHTS)


@pytest.mark.parametrize(
    ("call", "said"),
    [("sys.exit()", "SystemExit()"), ("sys.exit('no')", "SystemExit('no')"), ("raise SystemExit(3)", "SystemExit(3)")],
)
def test_a_file_that_ends_the_program_is_an_error_of_that_line(tmp_path: Path, call: str, said: str) -> None:
    path = tmp_path / "features.py"
    path.write_text(f"import sys\nfrom featureflow import *\n\n{call}\n")
    with pytest.raises(DefinitionError) as caught:
        project.load(path)
    assert (caught.value.line, caught.value.problem) == (4, f"the file ends the program here: {said}")
