from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from unit.models.networks import COLUMNS, SIGNATURE, network, rows

from featureflow.errors import ModelError
from featureflow.models import provider
from featureflow.models.session import BUCKETS, Session
from featureflow.models.signature import Signature


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    return network().export(tmp_path / "m.onnx").read_bytes()


@pytest.fixture
def session(content: bytes) -> Session:
    return Session(content, SIGNATURE, COLUMNS, "cpu", "model late@1")


def one_node(op: str, **attributes: object) -> bytes:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 1]) for n in "xy")
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"], **attributes)], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


@pytest.mark.parametrize("count", [1, 3, 32, BUCKETS[-1], BUCKETS[-1] + 1, 2 * BUCKETS[-1] + 7])
def test_each_row_gets_its_own_score_whatever_the_batch(session: Session, count: int) -> None:
    matrix = rows(count).astype(np.float32)
    together = session.run(matrix)
    assert together.shape == (count,)
    assert together.dtype == np.float64
    picked = [0, count // 2, count - 1]
    assert together[picked] == pytest.approx([session.run(matrix[i:i + 1])[0] for i in picked], abs=1e-6)


def test_no_rows_give_no_scores(session: Session) -> None:
    assert session.run(np.empty((0, 12), np.float32)).shape == (0,)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_refused_by_row_and_input(session: Session, value: float) -> None:
    matrix = rows(5).astype(np.float32)
    matrix[3, 7] = value
    with pytest.raises(ModelError, match=f"model late@1 got {value} for input x7 in row 3"):
        session.run(matrix)


def test_a_score_that_is_not_finite_is_refused() -> None:
    session = Session(one_node("Log"), Signature("x", 1, "y"), ("a",), "cpu", "model log")
    with pytest.raises(ModelError, match="model log gave nan for row 1"):
        session.run(np.array([[1], [-1]], np.float32))


@pytest.mark.parametrize("matrix", [np.zeros((2, 11), np.float32), np.zeros(12, np.float32), np.zeros((2, 12))])
def test_another_shape_or_type_is_refused(session: Session, matrix: np.ndarray) -> None:
    with pytest.raises(ModelError, match="it takes float32"):
        session.run(matrix)


def test_a_model_of_another_width_than_its_transforms_is_refused(content: bytes) -> None:
    with pytest.raises(ModelError, match="m takes 12 columns, and is given 11"):
        Session(content, SIGNATURE, COLUMNS[:11], "cpu", "m")


def test_a_model_that_does_not_give_one_score_per_row_is_refused() -> None:
    with pytest.raises(ModelError, match="a score is one value per row"):
        Session(one_node("ReduceSum", keepdims=1), Signature("x", 1, "y"), ("a",), "cpu", "m")


def test_bytes_that_do_not_load_are_refused_by_name(content: bytes) -> None:
    with pytest.raises(ModelError, match="model late@1 does not run on cpu"):
        Session(content[:-1000], SIGNATURE, COLUMNS, "cpu", "model late@1")


def test_the_cpu_is_chosen_with_a_reason_where_cuda_does_not_run() -> None:
    problem = provider.cuda_problem()
    assert problem is not None, "this test describes a machine without CUDA"
    found = provider.choose()
    assert (found.provider, found.reason) == ("cpu", f"cpu: {problem}")


def test_the_cpu_can_be_insisted_on() -> None:
    assert provider.choose("cpu").reason == "cpu: asked for"


def test_insisting_on_cuda_where_it_does_not_run_says_why_and_what_to_install() -> None:
    with pytest.raises(ModelError, match=r"CUDA was asked for, but .*; install featureflow\[gpu\]"):
        provider.choose("cuda")


def test_a_session_never_answers_from_another_provider_than_it_was_asked_for(content: bytes) -> None:
    assert "CUDAExecutionProvider" not in onnxruntime.get_available_providers()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")    # ONNX Runtime warns and goes on with the CPU; FeatureFlow does not
        with pytest.raises(ModelError, match="m does not run on cuda: .*fallback to CPU EP has been explicitly disabled"):
            Session(content, SIGNATURE, COLUMNS, "cuda", "m")


def test_a_session_has_one_thread_and_does_not_spin(content: bytes) -> None:
    options = provider.session(content, "cpu").get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


