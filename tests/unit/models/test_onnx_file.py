from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from unit.models.networks import WIDTH, network

from featureflow.errors import ModelError
from featureflow.models.onnx_file import parse, signature
from featureflow.models.signature import Signature


def model(nodes: list[onnx.NodeProto], inputs: list[tuple], outputs: list[tuple], domains: tuple = ("",)) -> bytes:
    given, made = ([helper.make_tensor_value_info(*item) for item in items] for items in (inputs, outputs))
    graph = helper.make_graph(nodes, "g", given, made)
    opsets = [helper.make_opsetid(domain, 17 if domain == "" else 1) for domain in domains]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def maps() -> bytes:
    """As converters of classifiers end them unless they are told not to."""
    zipped = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    number = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    of = helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.INT64, number))
    graph = helper.make_graph([zipped], "g", [helper.make_tensor_value_info("x", 1, ["n", 2])], [helper.make_value_info("y", of)])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def passing(input_shape: list, output_shape: list, kind: int = TensorProto.FLOAT) -> bytes:
    return model([helper.make_node("Identity", ["x"], ["y"])], [("x", kind, input_shape)], [("y", kind, output_shape)])


def test_a_plain_network_says_where_its_matrix_goes_in_and_its_score_comes_out(tmp_path: Path) -> None:
    content = network().export(tmp_path / "m.onnx").read_bytes()
    assert signature(parse(content, "m"), "m") == Signature("inputs", WIDTH, "score")


@pytest.mark.parametrize(("content", "says"), [
    (passing(["batch", 2], ["batch", 2]), r"gives y: float \(batch, 2\)"),
    (passing([4, 1], [4, 1]), "batches of 4 rows only"),
    (passing(["batch"], ["batch"]), r"takes x: float \(batch\)"),
    (passing(["batch", 1], ["batch", 1], TensorProto.DOUBLE), "takes x: double"),
    (model([helper.make_node("Add", ["a", "b"], ["y"])], [(n, 1, ["b", 1]) for n in "ab"], [("y", 1, ["b", 1])]), r"2 inputs \(a, b\)"),
    (model([helper.make_node("Identity", ["x"], [n]) for n in "yz"], [("x", 1, ["b", 1])], [(n, 1, ["b", 1]) for n in "yz"]),
     r"2 outputs \(y, z\); say which one is the score: --score NAME"),
    (maps(), r"gives y, which is no tensor: .* zipmap=False"),
])
def test_a_model_of_another_shape_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        signature(parse(content, "m"), "m")


def test_one_of_several_outputs_can_be_named() -> None:
    content = model([helper.make_node("Identity", ["x"], [n]) for n in "yz"], [("x", 1, ["b", 1])], [(n, 1, ["b", 1]) for n in "yz"])
    assert signature(parse(content, "m"), "m", output="z").output == "z"
    with pytest.raises(ModelError, match="no output w; it has y, z"):
        signature(parse(content, "m"), "m", output="w")


def test_weights_in_another_file_are_refused_wherever_they_hide(tmp_path: Path) -> None:
    whole = onnx.load(network().export(tmp_path / "m.onnx"))
    onnx.save_model(whole, tmp_path / "out.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    with pytest.raises(ModelError, match=r"in another file, whose content no checksum covers"):
        parse((tmp_path / "out.onnx").read_bytes(), "m")

    hidden = numpy_helper.from_array(np.ones(1, np.float32), "c")
    hidden.ClearField("raw_data")
    hidden.data_location = TensorProto.EXTERNAL
    hidden.external_data.add(key="location", value="w.bin")
    constant = helper.make_node("Constant", [], ["t"], value=hidden)
    branch = helper.make_graph([constant], "b", [], [helper.make_tensor_value_info("t", 1, [1])])
    nodes = [
        helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["yes"], ["c"], then_branch=branch, else_branch=branch),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    with pytest.raises(ModelError, match="in another file"):
        parse(model(nodes, [("x", 1, ["batch", 1])], [("y", 1, ["batch", 1])]), "m")

    constant = helper.make_node("Constant", [], ["c"])
    constant.attribute.append(onnx.AttributeProto(name="value", ref_attr_name="weights", type=onnx.AttributeProto.TENSOR))
    for weights in (hidden, branch):       # what an attribute of a function is where nobody says it
        own = helper.make_function(
            "own", "F", ["x"], ["y"], [constant, helper.make_node("Add", ["x", "c"], ["y"])], [helper.make_opsetid("", 17)],
            attribute_protos=[helper.make_attribute("weights", weights)],
        )  # fmt: skip
        whole = onnx.load_model_from_string(
            model([helper.make_node("F", ["x"], ["y"], domain="own")], [("x", 1, ["b", 1])], [("y", 1, ["b", 1])], ("", "own"))
        )
        whole.functions.append(own)
        with pytest.raises(ModelError, match="in another file"):
            parse(whole.SerializeToString(), "m")


def test_an_operator_that_needs_a_library_is_refused() -> None:
    nodes = [helper.make_node("Magic", ["x"], ["y"], domain="acme")]
    with pytest.raises(ModelError, match="acme::Magic, which needs a library"):
        parse(model(nodes, [("x", 1, ["batch", 1])], [("y", 1, ["batch", 1])], domains=("", "acme")), "m")


def test_a_model_that_draws_at_random_is_refused() -> None:
    nodes = [helper.make_node("RandomNormalLike", ["x"], ["y"])]
    with pytest.raises(ModelError, match="draws at random"):
        parse(model(nodes, [("x", 1, ["batch", 1])], [("y", 1, ["batch", 1])]), "m")


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x08"])
def test_bytes_that_are_no_model_are_refused(content: bytes) -> None:
    with pytest.raises(ModelError, match="m is not a valid ONNX model"):
        parse(content, "m")


def test_a_truncated_model_is_refused(tmp_path: Path) -> None:
    content = network().export(tmp_path / "m.onnx").read_bytes()
    for length in range(1, len(content), len(content) // 20):
        with pytest.raises(ModelError):
            signature(parse(content[:length], "m"), "m")
