"""Models of several tensors, made by onnx.helper: sequences with a mask, images, whole numbers, trees, strings."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from featureflow.clock import ManualClock
from featureflow.define import spec
from featureflow.errors import ModelError
from featureflow.models.ensemble import LoadedEnsemble
from featureflow.models.manifest import ModelInput, decode, encode, inputs_of
from featureflow.models.store import ModelStore
from featureflow.models.tensors import ModelTensor, Source, part
from featureflow.models.transform import Column, Steps, Transforms, fit, identity

STEPS, PIXELS = 4, 12
X, Y = spec.Column("x"), spec.Column("y")
INPUTS = (
    spec.Input(name="amount", expr=X), spec.Input(name="hour", expr=X),
    spec.Input(name="amounts", expr=X, size=STEPS, default=0.0), spec.Input(name="gaps", expr=Y, size=STEPS, default=0.0),
    spec.Input(name="there", expr=X, size=STEPS), spec.Input(name="image", expr=X, size=PIXELS), spec.Input(name="shop", expr=X),
)
CLICKS = spec.Model(
    name="clicks", inputs=INPUTS, deadline_us=20_000, drift=0.05, tensors=(
        spec.Tensor(name="dense", inputs=("amount", "hour")), spec.Tensor(name="history", inputs=("amounts", "gaps")),
        spec.Tensor(name="mask", inputs=("there",)), spec.Tensor(name="image", inputs=("image",)),
        spec.Tensor(name="shop", inputs=("shop",)),
    ),
)  # fmt: skip
WIDTH = sum(one.size for one in INPUTS)


def clicks() -> bytes:
    """score = sum(dense) + sum over t of mask[t] * (history[t, 0] + 10 history[t, 1]) + image[0, 1, 0] / 255 + weight of the shop."""
    constants = [
        numpy_helper.from_array(np.array([1.0, 10.0], np.float32).reshape(2, 1), "both"),
        numpy_helper.from_array(np.array([0.0, 100.0, 200.0], np.float32), "shops"),
        numpy_helper.from_array(np.array([1], np.int64), "last"), numpy_helper.from_array(np.array([2], np.int64), "two"),
        numpy_helper.from_array(np.array([0, 1, 0], np.int64), "at"), numpy_helper.from_array(np.array([1, 2, 1], np.int64), "to"),
        numpy_helper.from_array(np.array([1, 2, 3], np.int64), "axes"), numpy_helper.from_array(np.array(255, np.float32), "most"),
        numpy_helper.from_array(np.array([-1, 1], np.int64), "flat"),
    ]
    nodes = [
        helper.make_node("ReduceSum", ["dense", "last"], ["a"], keepdims=1),
        helper.make_node("MatMul", ["history", "both"], ["steps"]), helper.make_node("Squeeze", ["steps", "two"], ["each"]),
        helper.make_node("Mul", ["each", "mask"], ["masked"]), helper.make_node("ReduceSum", ["masked", "last"], ["b"], keepdims=1),
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Slice", ["pixels", "at", "to", "axes"], ["one"]),
        helper.make_node("Reshape", ["one", "flat"], ["pixel"]), helper.make_node("Div", ["pixel", "most"], ["c"]),
        helper.make_node("Gather", ["shops", "shop"], ["d"]),
        helper.make_node("Sum", ["a", "b", "c", "d"], ["score"]), helper.make_node("Identity", ["each"], ["attention"]),
    ]
    given = [("dense", 1, ["n", 2]), ("history", 1, ["n", STEPS, 2]), ("mask", 1, ["n", STEPS]),
             ("image", TensorProto.UINT8, ["n", 3, 2, 2]), ("shop", TensorProto.INT64, ["n", 1])]
    return model(nodes, given, [("score", 1, ["n", 1]), ("attention", 1, ["n", STEPS])], constants)


def model(nodes: list, inputs: list[tuple], outputs: list[tuple], constants: list = (), ml: bool = False) -> bytes:
    given, made = ([helper.make_tensor_value_info(*item) for item in items] for items in (inputs, outputs))
    graph = helper.make_graph(nodes, "g", given, made, list(constants))
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid("ai.onnx.ml", 3)] if ml else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def rows(count: int, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return np.concatenate([
        draw.normal(size=(count, 2 + 2 * STEPS)), draw.integers(0, 2, (count, STEPS)), draw.integers(0, 256, (count, PIXELS)),
        draw.integers(0, 3, (count, 1)),
    ], axis=1)  # fmt: skip


def expected(matrix: np.ndarray) -> np.ndarray:
    dense, amounts, gaps = matrix[:, :2], matrix[:, 2:6], matrix[:, 6:10]
    there, image, shop = matrix[:, 10:14], matrix[:, 14:26].reshape(-1, 3, 2, 2), matrix[:, 26]
    return dense.sum(1) + (there * (amounts + 10 * gaps)).sum(1) + image[:, 0, 1, 0] / 255 + 100 * shop


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models", ManualClock(1_000))


def add(store: ModelStore, content: bytes, definition: spec.Model = CLICKS, **more: object):
    path = store.path.parent / "m.onnx"
    path.write_bytes(content)
    inputs = inputs_of(definition)
    more = {"transforms": identity(sum(i.size for i in inputs)), "output": None, **more}
    return store.add(definition.name, path, inputs=inputs, model=definition, **more)


@pytest.mark.parametrize("count", [1, 7, 1_500])
def test_a_model_of_several_tensors_scores_what_its_inputs_say(store: ModelStore, count: int) -> None:
    add(store, clicks(), output="score")
    matrix = rows(count)
    assert store.load("clicks").score(matrix) == pytest.approx(expected(matrix), abs=1e-4)


def test_a_model_of_several_tensors_is_a_member_of_an_ensemble_as_any_other(store: ModelStore) -> None:
    add(store, clicks(), output="score")
    inputs = (*(msgspec.structs.replace(one, name=f"clicks.{one.name}") for one in INPUTS), spec.Input(name="rule.0", expr=X))
    halved = spec.Call("mul", (spec.Column("clicks.score"), spec.Column("rule.0")))
    both = spec.Model(
        name="both", inputs=inputs, deadline_us=20_000, drift=0.0, ensemble=spec.Ensemble(members=("clicks",), rules=(), score=halved)
    )
    matrix = np.concatenate([rows(7), np.full((7, 1), 0.5)], axis=1)
    assert LoadedEnsemble(both, (store.load("clicks"),)).score(matrix) == pytest.approx(expected(rows(7)) / 2, abs=1e-4)


def test_transforms_stand_between_as_they_do_for_one_matrix(store: ModelStore) -> None:
    steps = dict.fromkeys(("there", "image", "shop"), Steps(impute=0.0, scale=False))
    transforms = fit(rows(200), inputs_of(CLICKS), steps)
    add(store, clicks(), output="score", transforms=transforms)
    matrix = rows(9, seed=2)
    assert store.load("clicks").score(matrix) == pytest.approx(expected(transforms.apply(matrix).astype(float)), abs=1e-4)


def test_the_files_own_tensors_go_in_and_all_outputs_come_out_by_name(store: ModelStore) -> None:
    add(store, clicks(), output="score")
    loaded, matrix = store.load("clicks"), rows(1_100)
    tensors = {
        "dense": matrix[:, :2].astype(np.float32), "history": np.stack([matrix[:, 2:6], matrix[:, 6:10]], axis=2).astype(np.float32),
        "mask": matrix[:, 10:14].astype(np.float32), "image": matrix[:, 14:26].reshape(-1, 3, 2, 2).astype(np.uint8),
        "shop": matrix[:, 26:].astype(np.int64),
    }  # fmt: skip
    found = loaded.run(tensors)
    assert {name: value.shape for name, value in found.items()} == {"score": (1_100, 1), "attention": (1_100, STEPS)}
    assert found["score"][:, 0] == pytest.approx(expected(matrix), abs=1e-4)

    for change, says in (
        ({"mask": None}, "got the tensors dense, history, image, shop; it takes dense, history, mask, image, shop"),
        ({"mask": tensors["mask"].astype(np.float64)}, r"got float64 \(1100, 4\) for mask; it takes float32 \(rows, 4\)"),
        ({"image": tensors["image"][:, :2]}, r"got uint8 \(1100, 2, 2, 2\) for image; it takes uint8 \(rows, 3, 2, 2\)"),
        ({"shop": tensors["shop"][:3]}, "got tensors of 3 and 1100 rows"),
        ({"mask": np.full((1_100, 4), np.nan, np.float32)}, "got a value that is not finite in row 0 of mask"),
    ):
        given = {name: value for name, value in {**tensors, **change}.items() if value is not None}
        with pytest.raises(ModelError, match=says):
            loaded.run(given)
    with pytest.raises(ModelError, match="of no rows"):
        loaded.run({name: value[:0] for name, value in tensors.items()})


@pytest.mark.parametrize(("column", "value", "says"), [
    (14, 256.0, r"tensor image takes uint8, and row 1 has 256; give whole numbers from 0 to 255"),
    (14, 0.5, "row 1 has 0.5"), (20, -1.0, "row 1 has -1"), (26, 1.5, "tensor shop takes int64, and row 1 has 1.5"),
    (26, 2.0**25, "row 1 has"),
])
def test_a_value_that_a_tensor_cannot_hold_is_refused_never_rounded_or_wrapped(
    store: ModelStore, column: int, value: float, says: str
) -> None:
    add(store, clicks(), output="score")
    matrix = rows(3)
    matrix[1, column] = value
    with pytest.raises(ModelError, match=says):
        store.load("clicks").score(matrix)


def test_a_manifest_says_what_is_taken_and_given_and_reads_back(store: ModelStore) -> None:
    made = add(store, clicks(), output="score")
    assert [t.text for t in made.tensors] == [
        "dense: float32 (batch, 2)", "history: float32 (batch, 4, 2)", "mask: float32 (batch, 4)", "image: uint8 (batch, 3, 2, 2)",
        "shop: int64 (batch, 1)",
    ]
    assert [t.text for t in made.outputs] == ["score: float32 (batch, 1)", "attention: float32 (batch, 4)"]
    assert decode(encode(made), "here") == made


def test_a_definition_whose_tensors_are_made_of_other_inputs_does_not_fit(store: ModelStore) -> None:
    made = add(store, clicks(), output="score")
    swapped = msgspec.structs.replace(CLICKS, tensors=(spec.Tensor(name="dense", inputs=("hour", "amount")), *CLICKS.tensors[1:]))
    with pytest.raises(ModelError, match=r"takes the tensors dense of amount, hour;.* and the definition gives dense of hour, amount"):
        made.check_inputs(swapped)


@pytest.mark.parametrize(("tensors", "says"), [
    ((), r'5 inputs \(dense, history, mask, image, shop\); a plain tuple of inputs is one matrix. Write inputs = \{"dense": '),
    (CLICKS.tensors[:4], r"takes dense: float32 \(batch, 2\); .*, and the definition gives dense, history, mask, image"),
    ((spec.Tensor(name="dense", inputs=("amount", "hour", "shop")), *CLICKS.tensors[1:4], spec.Tensor(name="shop", inputs=("shop",))),
     r"takes dense: float32 \(batch, 2\), and amount, hour, shop give \(batch, 3\)"),
    ((*CLICKS.tensors[:3], spec.Tensor(name="image", inputs=("amounts",)), CLICKS.tensors[4]),
     r"takes image: uint8 \(batch, 3, 2, 2\), and amounts give \(batch, 4, 1\)"),
])
def test_tensors_that_do_not_fit_the_file_are_refused_with_both_sides(store: ModelStore, tensors: tuple, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        add(store, clicks(), msgspec.structs.replace(CLICKS, tensors=tensors), output="score")


@pytest.mark.parametrize(("inputs", "outputs", "says"), [
    ([("x", TensorProto.STRING, ["n", 1])], [("y", TensorProto.STRING, ["n", 1])], r"takes strings \(x\); a scorer gives numbers: enc"),
    ([("x", TensorProto.COMPLEX64, ["n", 1])], [("y", TensorProto.COMPLEX64, ["n", 1])], "takes x: complex64"),
    ([("x", 1, [8, 1])], [("y", 1, [8, 1])], r"takes batches of 8 rows only \(x\)"),
    ([("x", 1, [])], [("y", 1, [])], "a single value; export it with an open batch"),
])
def test_what_no_scorer_can_give_is_refused_clearly(store: ModelStore, inputs: list, outputs: list, says: str) -> None:
    one = spec.Model(name="one", inputs=INPUTS[:1], deadline_us=1, drift=0.1, tensors=(spec.Tensor(name="x", inputs=("amount",)),))
    for definition in (one, msgspec.structs.replace(one, tensors=())):
        with pytest.raises(ModelError, match=says):
            add(store, model([helper.make_node("Identity", ["x"], ["y"])], inputs, outputs), definition)


def tree(op: str, **more: object) -> onnx.NodeProto:
    """x0 <= 0.5 ? first : (x1 <= 2 ? second : third), the leaves given as weights of their node ids."""
    return helper.make_node(
        op, ["x"], ["label", "scores"] if op.endswith("Classifier") else ["scores"], domain="ai.onnx.ml",
        nodes_treeids=[0] * 5, nodes_nodeids=[0, 1, 2, 3, 4], nodes_featureids=[0, 0, 1, 0, 0], nodes_values=[0.5, 0.0, 2.0, 0.0, 0.0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "BRANCH_LEQ", "LEAF", "LEAF"], nodes_truenodeids=[1, 0, 3, 0, 0],
        nodes_falsenodeids=[2, 0, 4, 0, 0],
        nodes_hitrates=[1.0] * 5, nodes_missing_value_tracks_true=[0] * 5, **more,
    )  # fmt: skip


TREE = spec.Model(name="tree", inputs=INPUTS[:2], deadline_us=1, drift=0.1)
LEAVES = np.array([[0.0, 9.0], [1.0, 1.0], [1.0, 3.0]])


def test_a_tree_ensemble_is_a_model_as_any_other(store: ModelStore) -> None:
    node = tree("TreeEnsembleRegressor", n_targets=1, target_treeids=[0] * 3, target_nodeids=[1, 3, 4], target_ids=[0] * 3,
                target_weights=[10.0, 20.0, 30.0])
    add(store, model([node], [("x", 1, ["n", 2])], [("scores", 1, ["n", 1])], ml=True), TREE)
    assert store.load("tree").score(LEAVES).tolist() == [10.0, 20.0, 30.0]


def test_of_a_classifier_the_column_of_one_class_is_the_score(store: ModelStore) -> None:
    node = tree("TreeEnsembleClassifier", classlabels_int64s=[0, 1], class_treeids=[0] * 6, class_nodeids=[1, 1, 3, 3, 4, 4],
                class_ids=[0, 1] * 3, class_weights=[0.9, 0.1, 0.4, 0.6, 0.25, 0.75])
    content = model([node], [("x", 1, ["n", 2])], [("label", TensorProto.INT64, ["n"]), ("scores", 1, ["n", 2])], ml=True)
    with pytest.raises(ModelError, match=r"gives scores: float \(batch, 2\).*or name the column that it is: --score .scores\[1\]."):
        add(store, content, TREE, output="scores")
    with pytest.raises(ModelError, match=r"scores: float \(batch, 2\), which has no column 2: they are 0 to 1"):
        add(store, content, TREE, output="scores", column=2)
    add(store, content, TREE, output="scores", column=1)
    loaded = store.load("tree")
    assert loaded.score(LEAVES) == pytest.approx([0.1, 0.6, 0.75])
    found = loaded.run({"x": LEAVES.astype(np.float32)})
    assert (found["label"].dtype, found["label"].shape) == (np.int64, (3,))
    assert found["scores"][:, 1] == pytest.approx([0.1, 0.6, 0.75])


def test_a_sequence_of_values_with_categories_is_as_many_numbers_wide_at_every_step() -> None:
    transforms = Transforms((Column(categories=(1.0, 2.0)), Column(categories=(5.0, 6.0)), Column()))
    widths = [column.width for column in transforms.columns]
    kinds, lone = Source("kinds", 0, tuple(widths[:2])), Source("lone", 6, (1,))
    made = part(ModelTensor(name="t", kind="float32", shape=(2, 3)), [kinds], "m")
    matrix = transforms.apply(np.array([[1.0, 6.0, 0.5]]))
    assert made.cut(matrix).tolist() == [[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]
    with pytest.raises(ModelError, match=r"tensor t mixes inputs of 1 and 2 values \(kinds, lone\)"):
        part(ModelTensor(name="t", kind="float32", shape=(None,)), [kinds, lone], "m")
    with pytest.raises(ModelError, match="make kinds 1 and 3 columns wide"):
        part(ModelTensor(name="t", kind="float32", shape=(None,)), [Source("kinds", 0, (1, 3))], "m")


def test_a_model_of_whole_numbers_is_tried_on_whole_numbers(store: ModelStore) -> None:
    inputs = (ModelInput(name="shop"),)
    definition = spec.Model(name="shops", inputs=(spec.Input(name="shop", expr=X),), deadline_us=1, drift=0.1,
                            tensors=(spec.Tensor(name="shop", inputs=("shop",)),))
    weights = numpy_helper.from_array(np.array([0.0, 0.5], np.float32), "w")
    gather = helper.make_node("Gather", ["w", "shop"], ["y"])
    add(store, model([gather], [("shop", TensorProto.INT32, ["n", 1])], [("y", 1, ["n", 1])], [weights]), definition)
    assert inputs == inputs_of(definition)
    assert store.load("shops").score(np.array([[1.0], [0.0]])).tolist() == [0.5, 0.0]
