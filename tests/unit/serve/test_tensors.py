"""An image in a request and a sequence of features, scored by a model of several tensors."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from serve_rig import WITH_MODELS, fed, serving

from featureflow import limits
from featureflow.define.spec import Call, Column, Field, Input, Model, Request, Tensor
from featureflow.errors import RequestError
from featureflow.models.manifest import inputs_of
from featureflow.models.store import ModelStore
from featureflow.models.transform import identity
from featureflow.serve.answer import Answer
from featureflow.serve.prediction_log import Predictions

PIXELS = 3 * 20 * 20                       # more numbers than a record of the prediction log has room for
SEEN = Request(name="seen", fields=(Field(name="image", type="vector", size=PIXELS), Field(name="hour", type="int")))
LAST = Column("zone_now:last_n")
CLICKS = Model(
    name="clicks", deadline_us=60_000_000, drift=0.1,
    inputs=(
        Input(name="hour", expr=Column("seen:hour")), Input(name="last", expr=LAST, size=3, default=0.0),
        Input(name="there", expr=Call("each_not", (Call("each_is_null", (LAST,)),)), size=3),
        Input(name="image", expr=Column("seen:image"), size=PIXELS),
    ),
    tensors=(
        Tensor(name="dense", inputs=("hour",)), Tensor(name="history", inputs=("last",)), Tensor(name="mask", inputs=("there",)),
        Tensor(name="image", inputs=("image",)),
    ),
)  # fmt: skip
PROJECT = msgspec.structs.replace(WITH_MODELS, requests=(*WITH_MODELS.requests, SEEN), models=(CLICKS,))


def store_in(folder: Path) -> ModelStore:
    """score = hour + the sum of the masked history + the mean of the image's pixels."""
    nodes = [
        helper.make_node("Squeeze", ["history", "two"], ["values"]), helper.make_node("Mul", ["values", "mask"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "last"], ["past"], keepdims=1),
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT), helper.make_node("Flatten", ["pixels"], ["flat"]),
        helper.make_node("ReduceMean", ["flat"], ["bright"], axes=[1], keepdims=1),
        helper.make_node("Sum", ["dense", "past", "bright"], ["y"]),
    ]
    given = [("dense", 1, ["n", 1]), ("history", 1, ["n", 3, 1]), ("mask", 1, ["n", 3]), ("image", TensorProto.UINT8, ["n", 3, 20, 20])]
    constants = [numpy_helper.from_array(np.array([value], np.int64), name) for name, value in (("two", 2), ("last", 1))]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(*one) for one in given], [helper.make_tensor_value_info("y", 1, ["n", 1])], constants
    )
    file = folder / "m.onnx"
    file.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())
    store = ModelStore(folder / "models")
    inputs = inputs_of(CLICKS)
    store.add("clicks", file, inputs=inputs, transforms=identity(sum(i.size for i in inputs)), model=CLICKS)
    return store


def body(image: object, zone: int | None = 7) -> dict[str, object]:
    return {"entities": {"zone": zone}, "context": {"image": image, "hour": 5}}


def test_an_image_and_a_sequence_reach_the_model_as_its_tensors(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, PIXELS).tolist()

    async def go() -> None:
        async with serving(store_in(tmp_path), rig=fed(), project=PROJECT) as serve:
            answer = await serve.ask("clicks", {**body(image), "explain": True})
            assert isinstance(answer, Answer), answer
            said = msgspec.json.decode(answer.body)
            (last,) = [row["zone_now:last_n"]["value"] for row in said["features"]]
            expected = 5 + sum(value or 0.0 for value in last) + np.mean(image)
            assert said["scores"] == [pytest.approx(expected, rel=1e-5)]
            nobody = await serve.ask("clicks", body([0] * PIXELS, zone=None))
            assert msgspec.json.decode(nobody.body)["scores"] == [5.0]     # a mask of zeros

            logged = [row for row in serve.logged() if row["model"] == "clicks"]
            digest = sha256(np.array(image, "<f8").tobytes()).hexdigest()
            assert {"image": {"sha256": digest, "numbers": PIXELS}, "hour": 5} in [msgspec.json.decode(row["context"]) for row in logged]
            assert max(len(msgspec.json.encode(row)) for row in logged) < limits.RECORD_BYTES

    asyncio.run(go())


@pytest.mark.parametrize("hour", [5, 5.0])  # 5.0 is read by the exact rules
def test_an_image_that_waits_for_its_turn_takes_eight_bytes_a_number(tmp_path: Path, hour: float) -> None:
    """As a list it takes four times that: a thousand rows may wait, and each number of a body may be two characters."""

    async def go() -> None:
        async with serving(store_in(tmp_path), rig=fed(), project=PROJECT) as serve:
            decoder = serve.scorer.models.latest("clicks").body  # type: ignore[union-attr]  # it is ready
            (row,) = decoder.decode(msgspec.json.encode({"entities": {"zone": 7}, "context": {"image": [200] * PIXELS, "hour": hour}})).rows
            read_hour, image = row.inputs
            assert isinstance(image, np.ndarray) and image.nbytes == 8 * PIXELS
            assert (image.tolist(), read_hour) == ([200.0] * PIXELS, 5)
            assert row.context["image"]["sha256"] == sha256(np.full(PIXELS, 200, "<f8").tobytes()).hexdigest()

    asyncio.run(go())


def test_a_score_that_waits_for_the_log_holds_no_image(tmp_path: Path) -> None:
    async def go() -> None:
        kept: list[Predictions] = []
        async with serving(store_in(tmp_path), rig=fed(), project=PROJECT) as serve:
            serve.predictions.offer = lambda scored: kept.append(scored) is None  # type: ignore[method-assign]  # of this one alone
            assert isinstance(await serve.ask("clicks", {"rows": [body([200] * PIXELS)] * 3}), Answer)
        assert [len(scored.rows) for scored in kept] == [3]
        assert sum(isinstance(value, list) for row in kept[0].rows for value in row.inputs) == 0
        assert kept[0].bytes < 3 * PIXELS

    asyncio.run(go())


@pytest.mark.parametrize(("image", "says"), [
    ([0] * (PIXELS - 1), f"context.image must have {PIXELS} numbers, not {PIXELS - 1}"),
    (3, f"must be a list of {PIXELS} numbers, not int"),
    (None, "context.image is absent or null"), ([1e300] * PIXELS, "the numbers of context.image must be within"),
])
def test_an_image_that_is_none_is_refused_with_what_to_send(tmp_path: Path, image: object, says: str) -> None:
    async def go() -> None:
        async with serving(store_in(tmp_path), rig=fed(), project=PROJECT) as serve:
            with pytest.raises(RequestError, match=says) as refused:
                await serve.ask("clicks", body(image))
            assert refused.value.status == 422

    asyncio.run(go())
