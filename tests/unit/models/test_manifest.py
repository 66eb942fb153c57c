from __future__ import annotations

import re
from collections.abc import Callable

import msgspec
import pytest
from unit.models.networks import INPUTS, fitted

from featureflow.define import spec
from featureflow.errors import ModelError
from featureflow.models.manifest import Choice, Manifest, ModelInput, Probe, artifact, decode, encode, inputs_of
from featureflow.models.transform import identity


def manifest(**changes: object) -> Manifest:
    values: dict[str, object] = {
        "name": "late", "version": "1", "created_us": 5, "inputs": INPUTS, "transforms": fitted(), "tensor": "inputs", "output": "score",
        "variants": {"fp32": artifact("fp32.onnx", b"weights")},
    }
    return Manifest(**{**values, **changes})


def definition(*inputs: spec.Input) -> spec.Model:
    return spec.Model(name="late", inputs=inputs, deadline_us=20_000, drift=0.03)


def asked(item: ModelInput, **changes: object) -> spec.Input:
    return spec.Input(**{"name": item.name, "expr": spec.Column(item.name), "size": item.size, "default": item.default, **changes})


def test_a_manifest_reads_back_as_it_was_written_to_the_last_bit() -> None:
    made = manifest(chosen={"cpu": Choice(variant="fp32", reason="fp32: \N{SNOWMAN}")})
    assert decode(encode(made), "here") == made


def test_a_manifest_that_was_changed_is_refused_whatever_was_changed() -> None:
    written = encode(manifest())
    numbers = [m.span() for m in re.finditer(rb"\d", written)]
    assert len(numbers) > 100
    for start, _ in numbers[::7]:
        digit = b"1" if written[start:start + 1] != b"1" else b"2"
        changed = written[:start] + digit + written[start + 1:]
        if msgspec.json.decode(changed) == msgspec.json.decode(written):
            continue                       # a last digit that rounds to the same float64
        with pytest.raises(ModelError, match="here"):
            decode(changed, "here")


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"sha256": "x"}', b"\xff", b'{"a":' * 100_000])
def test_something_else_is_no_manifest(content: bytes) -> None:
    with pytest.raises(ModelError, match="here is not a model manifest"):
        decode(content, "here")


def test_inputs_and_transforms_of_another_width_are_refused() -> None:
    with pytest.raises(ModelError, match="12 columns in all, the transforms take 3"):
        manifest(transforms=identity(3))


@pytest.mark.parametrize(("wrong", "says"), [
    (lambda: ModelInput(name="a", size=0), "input a has 0 columns"),
    (lambda: ModelInput(name="a", size=-1), "input a has -1 columns"),
    (lambda: ModelInput(name="a", default=float("nan")), "the default of input a is nan"),
    (lambda: manifest(inputs=(ModelInput(name="a"), ModelInput(name="a")), transforms=identity(2)), "two inputs have one name: a, a"),
    (lambda: Probe(rows=(), scores=(), tolerance=0.1), "probe"),
    (lambda: Probe(rows=((1.0, 2.0), (1.0,)), scores=(1.0, 2.0), tolerance=0.1), "probe"),
    (lambda: Probe(rows=((1.0,),), scores=(1.0, 2.0), tolerance=0.1), "probe"),
])
def test_what_no_writer_of_manifests_makes_is_refused(wrong: Callable[[], object], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        wrong()


@pytest.mark.parametrize("wrong", [{"name": "../late"}, {"version": ".."}, {"version": ""}, {"variants": {"fp32": artifact("a/b", b"")}}])
def test_names_cannot_lead_out_of_the_folder(wrong: dict[str, object]) -> None:
    with pytest.raises(ModelError):
        manifest(**wrong)


def test_a_newer_format_says_what_to_do() -> None:
    with pytest.raises(ModelError, match="format 2, this FeatureFlow reads 1"):
        manifest(format=2)


def test_columns_are_named_by_their_input() -> None:
    assert manifest().column_names[:3] == ("trend", "last_delays[0]", "last_delays[1]")
    assert manifest().column_names[-1] == "late_share[1]"


def test_a_definition_with_the_same_inputs_fits() -> None:
    model = definition(*(asked(item) for item in INPUTS))
    assert inputs_of(model) == INPUTS
    manifest().check_inputs(model)


@pytest.mark.parametrize(("inputs", "says"), [
    ([asked(i) for i in INPUTS[:-1]], "late_share is not in the definition"),
    ([*(asked(i) for i in INPUTS), asked(ModelInput(name="day"))], "day is not in the model"),
    ([asked(i, size=3) if i.name == "hour" else asked(i) for i in INPUTS], "hour has 1 columns in the model and 3 in the definition"),
    ([asked(i, default=0.0) if i.name == "hour" else asked(i) for i in INPUTS], "hour has the default None in the model and 0.0 in the"),
    ([asked(i) for i in INPUTS[::-1]], "the same inputs stand in another order"),
])
def test_a_definition_with_other_inputs_is_refused_and_the_difference_named(inputs: list[spec.Input], says: str) -> None:
    with pytest.raises(ModelError, match=f"late@1 does not fit its definition: .*{says}"):
        manifest().check_inputs(definition(*inputs))


def test_fp32_answers_where_nothing_was_measured() -> None:
    made = manifest(chosen={"cpu": Choice(variant="int8", reason="int8: faster")})
    assert made.choice("cpu").variant == "int8"
    assert made.choice("cuda") == Choice(variant="fp32", reason="fp32: no other variant was made")
    both = msgspec.structs.replace(made, variants={**made.variants, "int8": artifact("int8.onnx", b"")})
    assert both.choice("cuda").reason == "fp32: the others were not measured on cuda"
