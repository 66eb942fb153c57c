"""What a newcomer gets wrong is said in the words of the command line, without a traceback."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from forked import Forked

from featureflow.models.export import export_mlp

NUMBER = count()


def run(folder: Path, *words: str, code: int = 1) -> str:
    """In the folder, which is the project's but for ``init``."""
    process = Forked(words if words[0] == "init" else ("-p", str(folder), *words), os.environ, folder.parent / f"{next(NUMBER)}", folder)
    ended = process.wait()
    assert "Traceback" not in process.err()
    assert ended == code, process.said()
    return process.said()


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new project to which nothing was applied."""
    folder = tmp_path_factory.mktemp("mistakes") / "Bare Shop"
    run(folder.parent, "init", str(folder), code=0)
    return folder


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mistakes") / "shop"
    run(folder.parent, "init", str(folder), code=0)
    run(folder, "apply", code=0)
    (folder / "spine.csv").write_text("user,at,amount,label\nu1,2026-03-01T12:00:00Z,1.5,0\n")
    return folder


@pytest.mark.parametrize(
    "words", [("up",), ("ingest",), ("history",), ("get", "user_now", "u1"), ("rebuild",), ("dataset", "fraud", "a.csv", "b.csv")]
)
def test_before_the_first_apply_every_command_says_to_apply(bare: Path, words: tuple[str, ...]) -> None:
    assert "no definitions have been applied here yet. Run: featureflow apply" in run(bare, *words)


def test_doctor_says_so_too_and_what_init_wrote_has_a_name(bare: Path) -> None:
    assert "nothing is applied yet. Run: featureflow apply" in run(bare, "doctor")
    assert 'name = "bare-shop"' in (bare / "featureflow.toml").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "Add --known-at payment=FIELD with the datetime field that says it, or --delay 5s"),
        (("--delay", "soon"), "the delay is 'soon'; write a whole number and one of"),
        (("--delay", "paymnt=5s"), "Add --known-at payment=FIELD"),
        (("--delay", "5s", "--delay", "payment=1s"), "--delay 5s: write EVENT=5s"),
        (("--known-at", "payment=amount"), "'payment' was known, but it is no datetime field of it; there are at"),
        (("--known-at", "at"), "--known-at at: write EVENT=FIELD"),
        (("--delay", "1s", "--label", "lable"), "it has no column 'lable'"),
        (("--delay", "1s", "--instant", "when"), "it has no column 'when'"),
    ],
)
def test_dataset_speaks_of_its_own_options(shop: Path, options: tuple[str, ...], said: str) -> None:
    answer = run(shop, "dataset", "fraud", str(shop / "spine.csv"), str(shop / "out.csv"), *options)
    assert said in answer
    assert "={" not in answer


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("add", "frod", "fraud.onnx"), "the definitions have no model 'frod'; they have fraud"),
        (("add", "fraud", "nope.onnx"), "nope.onnx cannot be read: No such file or directory"),
        (("add", "fraud", "features.py", "--transforms", "absent.json"), "absent.json cannot be read: No such file or directory"),
        (("add", "fraud", "features.py"), "is not a valid ONNX model"),
        (("add", "fraud", "nope.onnx", "--dataset", "absent.csv"), "absent.csv cannot be read: No such file or directory. Give a CSV"),
        (("add", "fraud", "nope.onnx", "--dataset", "spine.csv"), "spine.csv has no column 'compared'"),
        (("quantize", "fraud"), "fraud"),
    ],
)
def test_model_names_the_file_or_model_that_is_wrong(shop: Path, words: tuple[str, ...], said: str) -> None:
    answer = run(shop, "model", *words)
    assert said in answer
    assert "spine cannot" not in answer
    assert "Errno" not in answer


def test_a_number_of_rows_that_cannot_be_is_refused_by_its_option(shop: Path) -> None:
    assert "--expected-batch" in run(shop, "model", "quantize", "fraud", "--expected-batch", "0", code=2)


def test_a_training_set_is_not_written_over_its_spine(shop: Path) -> None:
    before = (shop / "spine.csv").read_bytes()
    said = run(shop, "dataset", "fraud", "spine.csv", "../shop/spine.csv", "--delay", "1s")
    assert "../shop/spine.csv is the spine itself; name another file" in said
    assert (shop / "spine.csv").read_bytes() == before


def test_get_names_an_id_that_is_no_text_and_takes_the_instants_that_it_says_it_takes(shop: Path) -> None:
    assert "Id is no text: the id is not UTF-8" in run(shop, "get", "user_now", os.fsdecode(b"\xff\xfe"))
    assert "1970-01-01T00:00:05" in run(shop, "get", "user_now", "u1", "--at", "5000000", code=0)
    assert "must be RFC 3339" in run(shop, "get", "user_now", "u1", "--at", "5.5")


def test_apply_says_which_model_will_answer_no_more_before_it_does_not(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    run(tmp_path, "init", str(folder), code=0)
    run(folder, "apply", code=0)
    export_mlp([np.ones((12, 1))], [np.zeros(1)], folder / "fraud.onnx")
    assert "fraud@1 is in the store" in run(folder, "model", "add", "fraud", str(folder / "fraud.onnx"), code=0)
    features = folder / "features.py"
    features.write_text(features.read_text().replace("        UserNow.largest[\"1h\"],\n", ""))
    said = run(folder, "apply", "--plan", code=0)
    assert "fraud: version 1 goes on with the inputs that it was added with" in said
    assert "featureflow model release fraud 1, then canary" in said
    assert "refused" not in said
    run(folder, "model", "release", "fraud", "1", code=0)
    said = run(folder, "apply", "--plan", code=0)
    assert "fraud: version 1 goes on with the inputs that it was added with" in said
    assert "featureflow model canary fraud VERSION" in said
    assert "model release" not in said, "it is released: the step would end a candidate's trial"
    features.write_text(features.read_text().replace("    largest = max(Payment.amount, over=(\"1h\",))\n", ""))
    for words in (("apply", "--plan"), ("apply",)):
        said = run(folder, *words, code=0)
        assert "the stable version of fraud cannot answer with these definitions, and scores of fraud are refused (503)" in said
        assert "model fraud@1 reads what is not there as it was" in said
        assert "the feature user_now:largest_1h is not in the definitions" in said
    assert "the feature user_now:largest_1h is not in the definitions" in run(folder, "doctor")
