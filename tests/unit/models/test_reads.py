"""What a version reads, kept with it: it stays the same feature, or is told apart, whatever else the definitions have."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from trips import LIFETIME
from unit.models.test_manifest import manifest
from worker_rig import PROJECT, RIDER, TRIP, WINDOWS

from featureflow.define.spec import (
    Aggregation,
    Call,
    Column,
    Field,
    Input,
    Literal,
    Model,
    Project,
    Request,
    Source,
    Tensor,
    View,
)
from featureflow.define.version import feature_version, with_version
from featureflow.errors import ModelError
from featureflow.models.manifest import Manifest, ModelInput, as_added, decode, encode, inputs_of
from featureflow.models.reads import Reads
from featureflow.models.release import content_of
from featureflow.models.tensors import ModelTensor
from featureflow.models.transform import identity

ASK = Request(name="ask", fields=(Field(name="hour", type="int"), Field(name="image", type="vector", size=2)))
MODEL = Model(
    name="late",
    inputs=(
        Input(name="count", expr=Column("rider_now:count_1h")),
        Input(name="share", expr=Call("div", (Column("rider_now:sum_1m"), Literal(2.5))), default=0.5),
        Input(name="hour", expr=Column("ask:hour")),
        Input(name="image", expr=Column("ask:image"), size=2),
    ),
    deadline_us=20_000,
    drift=0.03,
)
APPLIED: Project = msgspec.structs.replace(PROJECT, requests=(ASK,), models=(MODEL,))
MINUTE, HOUR, TUMBLING = WINDOWS


def added(**changes: Any) -> Manifest:
    return manifest(inputs=inputs_of(MODEL), transforms=identity(5), reads=Reads.of(APPLIED, MODEL), **changes)


def replaced(project: Project = APPLIED, **changes: Any) -> Project:
    return msgspec.structs.replace(project, **changes)


def a_view(changes: dict[str, Any], of: str = "sum", *, source: Source = TRIP, **of_view: Any) -> View:
    """``rider_now`` with one of its aggregations otherwise."""
    aggregations = tuple(msgspec.structs.replace(a, **changes) if a.name == of else a for a in RIDER.aggregations)
    return with_version(msgspec.structs.replace(RIDER, aggregations=aggregations, **of_view), {"trip": source})


def version_in(view: View, name: str = "sum_1h", source: Source = TRIP) -> str:
    return feature_version(view, next(feature for feature in view.features if feature.name == name), source)


def a_source(**changes: Any) -> Source:
    return msgspec.structs.replace(TRIP, **changes)


def fields(name: str, **changes: Any) -> tuple[Field, ...]:
    return tuple(msgspec.structs.replace(field, **changes) if field.name == name else field for field in TRIP.fields)


@pytest.mark.parametrize(
    "view",
    [
        a_view({"where": Call("gt", (Column("fare"), Literal(1.0)))}),
        a_view({"value": Call("neg", (Column("fare"),))}),
        a_view({"op": "mean"}),
        a_view({"default": 7.0}),
        a_view({"windows": tuple(msgspec.structs.replace(w, exact=True) if w is HOUR else w for w in WINDOWS)}),
        a_view({}, keys={"trip": "zone"}),
        a_view({}, entity="zone"),
    ],
)
def test_a_feature_that_is_calculated_otherwise_has_another_version(view: View) -> None:
    assert version_in(view) != version_in(RIDER)


@pytest.mark.parametrize(
    ("view", "source"),
    [
        (a_view({"op": "max"}, "count"), TRIP),
        (a_view({}, publish=True), TRIP),
        (a_view({}, ttl_us=9_000_000_000_000), TRIP),
        (RIDER, a_source(disorder_us=TRIP.disorder_us + 1)),
        (RIDER, a_source(future_us=TRIP.future_us + 1)),
        (RIDER, a_source(dedupe="rider", within_us=60_000_000)),
        (RIDER, a_source(fields=fields("fare", nullable=False))),
        (RIDER, a_source(fields=(*TRIP.fields, Field(name="more", type="int")))),
    ],
)
def test_another_feature_beside_it_and_which_records_count_leave_it_as_it_is(view: View, source: Source) -> None:
    assert version_in(view, source=source) == version_in(RIDER)


def test_a_feature_beside_it_makes_another_version_of_the_view_alone() -> None:
    more = Aggregation(name="most", op="max", source="trip", value=Column("fare"), where=None, windows=(HOUR,))
    view = with_version(msgspec.structs.replace(RIDER, aggregations=(more, *RIDER.aggregations)), {"trip": TRIP})
    assert view.version != RIDER.version
    assert version_in(view) == version_in(RIDER)


def test_what_a_field_is_of_which_is_read_and_when_a_lifetime_value_expires_are_part_of_it() -> None:
    assert version_in(RIDER, source=a_source(fields=fields("fare", type="int"))) != version_in(RIDER)
    assert version_in(RIDER, source=a_source(time_field="fare")) != version_in(RIDER)
    lifetime = a_view({"windows": (LIFETIME,)})
    assert version_in(lifetime, "sum_lifetime") != version_in(msgspec.structs.replace(lifetime, ttl_us=1_000_000), "sum_lifetime")


def test_each_feature_of_a_project_has_a_version_of_its_own() -> None:
    versions = [feature_version(view, feature, TRIP) for view in PROJECT.views for feature in view.features]
    assert len(set(versions)) == len(versions)


# -- a version's own definition ----------------------------------------------------------------------------------------


def test_of_the_same_inputs_the_definition_itself_is_meant() -> None:
    assert as_added(added(), APPLIED) is MODEL


def test_a_version_goes_on_with_what_it_was_added_with_and_with_the_definitions_deadline() -> None:
    now = msgspec.structs.replace(
        MODEL, inputs=(Input(name="share", expr=Column("rider_now:sum_1h")),), deadline_us=9_000,
        tensors=(Tensor(name="a", inputs=("share",)),),
    )
    mine = as_added(added(), replaced(models=(now,)))
    assert mine.inputs == MODEL.inputs
    assert (mine.deadline_us, mine.drift, mine.tensors) == (9_000, MODEL.drift, ())
    assert as_added(decode(encode(added()), "here"), replaced(models=(now,))) == mine


def test_its_tensors_are_those_of_its_file() -> None:
    shape = ModelTensor(name="all", kind="float32", shape=(5,), inputs=("count", "share", "hour", "image"))
    mine = as_added(added(tensors=(shape,), tensor=""), APPLIED)
    assert mine.tensors == (Tensor(name="all", inputs=("count", "share", "hour", "image")),)


@pytest.mark.parametrize(
    ("project", "says"),
    [
        (replaced(views=PROJECT.views[1:]), "the feature rider_now:count_1h is not in the definitions; the feature rider_now:sum_1m is"),
        (replaced(views=(a_view({"default": 7.0}), PROJECT.views[1])), "the feature rider_now:sum_1m is calculated otherwise now. Add"),
        (replaced(requests=()), "the request field ask:hour is not in the definitions; the request field ask:image is not"),
        (
            replaced(requests=(msgspec.structs.replace(ASK, fields=(Field(name="hour", type="float"), ASK.fields[1])),)),
            "the request field ask:hour is float now and was int",
        ),
        (
            replaced(requests=(msgspec.structs.replace(ASK, fields=(ASK.fields[0], Field(name="image", type="vector", size=3))),)),
            "ask:image is vector of 3 now and was vector of 2",
        ),
        (replaced(models=()), "the definitions have no model 'late'; they have none"),
    ],
)
def test_what_is_gone_is_named(project: Project, says: str) -> None:
    with pytest.raises(ModelError) as caught:
        as_added(added(), project)
    assert says in str(caught.value)


def test_a_request_field_that_may_be_null_now_or_have_other_categories_is_the_same_field() -> None:
    hour = msgspec.structs.replace(ASK.fields[0], nullable=True)
    assert as_added(added(), replaced(requests=(msgspec.structs.replace(ASK, fields=(hour, ASK.fields[1])),))) is MODEL


def test_what_a_version_reads_is_part_of_what_was_released() -> None:
    other = msgspec.structs.replace(MODEL, inputs=(Input(name="count", expr=Column("rider_now:count_1m")), *MODEL.inputs[1:]))
    apart = msgspec.structs.replace(added(), reads=Reads.of(APPLIED, other))
    assert len({content_of(one) for one in (added(), apart, msgspec.structs.replace(added(), reads=None))}) == 3


OLD = b"""{
 "name": "late",
 "version": "1",
 "created_us": 5,
 "inputs": [
  {
   "name": "hour",
   "size": 1,
   "default": 0.0
  }
 ],
 "transforms": {
  "columns": [
   {}
  ]
 },
 "tensor": "inputs",
 "output": "score",
 "variants": {
  "fp32": {
   "file": "fp32.onnx",
   "sha256": "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c",
   "bytes": 7
  }
 },
 "chosen": {},
 "vectors": null,
 "report": null,
 "probe": null,
 "format": 1,
 "tensors": [],
 "outputs": [],
 "column": null,
 "sha256": "28b141955da84345eca88a70cc35b42c0fa85144aacf41e2364b0626190d88a1"
}"""


def test_a_manifest_of_before_says_nothing_of_it_and_is_what_it_was() -> None:
    old = decode(OLD, "here")
    assert old.reads is None
    assert content_of(old) == "593c49737ef3246f46e3016263113a067f146aae70622173dee9e6fabfb23cff"
    hour = Model(name="late", inputs=(Input(name="hour", expr=Column("ask:hour"), default=0.0),), deadline_us=1, drift=0.03)
    assert as_added(old, replaced(models=(hour,))) is hour
    with pytest.raises(ModelError, match="does not fit its definition"):
        as_added(old, APPLIED)


def test_a_manifest_that_does_not_say_of_each_input_what_it_is_of_is_refused() -> None:
    with pytest.raises(ModelError, match="does not say of each input"):
        msgspec.structs.replace(added(), inputs=(*inputs_of(MODEL)[:3], ModelInput(name="picture", size=2)))
