"""The command line itself: what it lists, and what it says when something is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from unit.cli.test_model_add import DEFINITIONS

from featureflow.cli.main import VERBS
from featureflow.models.export import export_mlp

WITHOUT_RUNTIME = """
import sys
sys.modules["onnxruntime"] = None          # what `import onnxruntime` finds where it is not installed
from featureflow.cli.main import main
sys.argv = ["featureflow", *sys.argv[1:]]
main()
"""


UTF8_OFF = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def run(*words: str | bytes, code: str = "from featureflow.cli.main import main; main()") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=300)


def run_in(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """With bytes for answer: what is written need not be UTF-8."""
    command = [sys.executable, "-m", "featureflow.cli", *words]
    return subprocess.run(command, cwd=folder, env={**os.environ, **environment}, capture_output=True, timeout=300)


def test_help_lists_every_verb() -> None:
    listed = run("--help").stdout
    assert [verb for verb in VERBS if f"  {verb} " not in listed] == []


@pytest.mark.parametrize("words", [(), ("model",), ("index",)])
def test_what_each_verb_does_is_listed_whole(words: tuple[str, ...]) -> None:
    listed = run(*words, "--help").stdout.partition("Commands:\n")[2].splitlines()
    assert len(listed) >= 2
    assert [line for line in listed if not line.strip() or line.endswith("...")] == []


def test_its_version_is_the_packages() -> None:
    assert run("--version").stdout == f"featureflow {version('featureflow')}\n"


def test_an_error_is_one_message_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "featureflow.toml").write_text("[serv]\n")
    done = run("--project", str(tmp_path), "apply")
    assert done.returncode == 1
    assert "SettingsError" in done.stderr
    assert "did you mean 'serve'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_project_folder_that_is_not_there_is_named_and_not_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "absent", tmp_path / "file"):
        for words in (("up",), ("model", "list"), ("doctor", "--json")):
            done = run("--project", str(folder), *words)
            assert done.returncode == 1
            assert f"{folder} is no folder" in done.stdout + done.stderr
            assert "Traceback" not in done.stderr
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("words", [("serve",), ("model", "list")])
def test_without_onnx_runtime_the_verbs_that_need_it_say_what_to_install(words: tuple[str, ...]) -> None:
    done = run(*words, code=WITHOUT_RUNTIME)
    assert done.returncode == 1
    assert 'pip install "featureflow[cpu]"' in done.stderr
    assert "Traceback" not in done.stderr
    assert "ingest" in run("--help", code=WITHOUT_RUNTIME).stdout


def test_a_file_in_a_folders_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("init", str(tmp_path / "file"))
    assert done.returncode == 1
    assert f"{tmp_path / 'file'}: File exists" in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_says_what_is_wrong_with_the_settings_once(tmp_path: Path) -> None:
    done = run("--project", str(tmp_path / "absent"), "doctor")
    assert done.stdout.count("is no folder") == 1


def test_doctor_says_what_is_wrong_with_the_definitions_once(tmp_path: Path) -> None:
    done = run("--project", str(tmp_path), "doctor")
    assert done.returncode == 1
    assert done.stdout.count("the definitions file cannot be read: No such file or directory") == 1
    assert "onnxruntime" in done.stdout


def test_a_verb_with_a_slip_is_asked_back() -> None:
    done = run("aply")
    assert done.returncode == 2
    assert "No such command 'aply'; did you mean 'apply'?" in done.stderr
    assert "No such command 'xyzzy'." in run("xyzzy").stderr


def test_a_definitions_file_that_ends_the_program_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "features.py").write_text("import sys\nfrom featureflow import *\n\nsys.exit(0)\n")
    done = run("--project", str(tmp_path), "apply", "--plan")
    assert done.returncode == 1
    assert "features.py:4: the file ends the program here: SystemExit(0)" in done.stderr


def test_models_path_that_is_a_file_is_no_empty_store(tmp_path: Path) -> None:
    (tmp_path / "featureflow.toml").write_text('[models]\npath = "featureflow.toml"\n')
    done = run("--project", str(tmp_path), "model", "list")
    assert done.returncode == 1
    assert f"ModelError: {tmp_path / 'featureflow.toml'} is a file" in done.stderr


@pytest.mark.parametrize("port", ["abc", "0", "65536", "²", "-1"])
def test_a_new_projects_producer_says_what_is_no_port(tmp_path: Path, port: str) -> None:
    produce = files("featureflow.cli") / "template" / "produce.py"
    done = subprocess.run([sys.executable, str(produce), port], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{port!r} is no port")


def test_a_settings_file_that_is_a_folder_is_no_project_without_settings(tmp_path: Path) -> None:
    (tmp_path / "featureflow.toml").mkdir()  # as a container has it whose mount names a file that was not there
    done = run("--project", str(tmp_path), "apply", "--plan")
    assert done.returncode == 1
    assert f"SettingsError: {tmp_path / 'featureflow.toml'} is no file" in done.stderr


def test_a_folder_that_was_deleted_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = f"import os; os.chdir({str(gone)!r}); os.rmdir({str(gone)!r}); from featureflow.cli.main import main; main()"
    done = run("apply", code=code)
    assert done.returncode == 1
    assert "SettingsError: the folder that this runs in was deleted" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_the_terminal_cannot_write_is_escaped_and_ends_nothing(tmp_path: Path) -> None:
    done = run_in(tmp_path, "init", "日本", PYTHONIOENCODING="latin-1")
    assert done.returncode == 0, done.stderr
    assert rb"Made \u65e5\u672c with" in done.stdout


def test_a_folder_that_this_locale_cannot_name_is_said_with_what_to_set(tmp_path: Path) -> None:
    assert run_in(tmp_path, "init", "日本").returncode == 0
    done = run_in(tmp_path / "日本", "apply", "--plan", **UTF8_OFF)
    assert done.returncode == 1
    assert b"is no text in this locale" in done.stderr
    assert b"Set PYTHONUTF8=1" in done.stderr
    assert b"Traceback" not in done.stderr
    assert run_in(tmp_path / "日本", "apply", "--plan", **{**UTF8_OFF, "PYTHONUTF8": "1"}).returncode == 0


def test_doctor_goes_on_where_a_file_stands_in_a_folders_place(tmp_path: Path) -> None:
    run("init", str(tmp_path / "shop"))
    (tmp_path / "shop" / ".featureflow").write_text("")
    done = run("--project", str(tmp_path / "shop"), "doctor")
    assert done.returncode == 1
    assert ".featureflow/server: Not a directory. Name another file or folder" in done.stdout
    assert "onnxruntime" in done.stdout
    assert "Traceback" not in done.stderr


def test_doctor_tells_of_an_absent_onnx_runtime_with_all_else(tmp_path: Path) -> None:
    run("init", str(tmp_path / "shop"))
    done = run("--project", str(tmp_path / "shop"), "doctor", "--json", code=WITHOUT_RUNTIME)
    found = {finding["part"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert done.returncode == 1
    assert found["models"]["state"] == "error"
    assert 'pip install "featureflow[cpu]"' in found["models"]["said"]
    assert found["online"]["state"] == "ok"
    assert "Traceback" not in done.stderr


def test_definitions_are_applied_where_no_onnx_runtime_is_and_say_all_the_same_which_version_they_cannot_compute(tmp_path: Path) -> None:
    """A machine that only ingests has no need of it."""
    project = ("--project", str(tmp_path))
    (tmp_path / "features.py").write_text(DEFINITIONS)
    done = run(*project, "apply", code=WITHOUT_RUNTIME)
    assert (done.returncode, done.stderr) == (0, "")
    export_mlp([np.ones((2, 1))], [np.zeros(1)], tmp_path / "fraud.onnx")
    assert run(*project, "model", "add", "fraud", str(tmp_path / "fraud.onnx")).returncode == 0
    without = DEFINITIONS.replace('("1m", "1h")', '("1h", "1d")').replace('payments["1m"]', 'payments["1d"]')
    (tmp_path / "features.py").write_text(without)
    done = run(*project, "apply", code=WITHOUT_RUNTIME)
    assert done.returncode == 0, done.stderr
    assert "fraud@1 reads what is not there" in done.stderr


def test_a_new_projects_training_says_what_comes_before_it(tmp_path: Path) -> None:
    train = files("featureflow.cli") / "template" / "train.py"
    done = subprocess.run([sys.executable, str(train)], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr == "there is no dataset.csv here. Run: featureflow dataset fraud spine.csv dataset.csv --label label --delay 1s\n"
