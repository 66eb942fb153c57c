from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from unit.models.networks import COLUMNS, network, rows

from featureflow.errors import ModelError
from featureflow.models.export import IR_VERSION, OPSET, export_mlp
from featureflow.models.onnx_file import parse, signature
from featureflow.models.session import Session


def test_an_exported_network_scores_what_its_weights_say(tmp_path: Path) -> None:
    net = network()
    content = net.export(tmp_path / "m.onnx").read_bytes()
    session = Session(content, signature(parse(content, "m"), "m"), COLUMNS, "cpu", "m")
    matrix = rows().astype(np.float32)
    assert np.abs(session.run(matrix) - net.score(matrix)).max() < 1e-6


def test_scaling_inside_the_model_is_the_same_as_before_it(tmp_path: Path) -> None:
    net = network()
    mean, deviation = np.linspace(-1, 1, 12), np.linspace(0.5, 2, 12)
    export_mlp(net.weights, net.biases, tmp_path / "m.onnx", mean=mean, deviation=deviation)
    content = (tmp_path / "m.onnx").read_bytes()
    session = Session(content, signature(parse(content, "m"), "m"), COLUMNS, "cpu", "m")
    matrix = rows().astype(np.float32)
    assert np.abs(session.run(matrix) - net.score(((matrix - mean) / deviation).astype(np.float32))).max() < 1e-5


def test_the_file_is_plain_pinned_and_open_in_its_batch(tmp_path: Path) -> None:
    model = onnx.load(network().export(tmp_path / "m.onnx"))
    assert [node.op_type for node in model.graph.node] == ["Gemm", "Relu", "Gemm", "Relu", "Gemm", "Sigmoid"]
    assert (model.ir_version, [(o.domain, o.version) for o in model.opset_import]) == (IR_VERSION, [("", OPSET)])
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize(("weights", "biases", "says"), [
    ([], [], "at least one layer"),
    ([np.ones((3, 1))], [], "1 weight matrices and 0 bias vectors"),
    ([np.ones((3, 2)), np.ones((3, 1))], [np.ones(2), np.ones(1)], "layer 1 has weights"),
    ([np.ones((3, 1))], [np.ones(2)], "layer 0 has weights"),
    ([np.ones((3, 2))], [np.ones(2)], "gives 2 values"),
    ([np.full((3, 1), np.nan)], [np.ones(1)], "not finite"),
    ([np.full((3, 1), 1e300)], [np.ones(1)], "not finite in float32"),
])
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, weights: list[np.ndarray], biases: list[np.ndarray], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        export_mlp(weights, biases, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_a_deviation_of_0_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no deviation of 0"):
        export_mlp([np.ones((2, 1))], [np.ones(1)], tmp_path / "m.onnx", deviation=[1, 0])
