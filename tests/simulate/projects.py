"""What is applied in a world: one of two projects, and the same with a view more."""

from __future__ import annotations

from msgspec import structs
from worker_rig import PROJECT, SECOND_US, SKETCHED, TRIP, WINDOWS, with_sketches

from featureflow.define.spec import Aggregation, Column, Field, Project, View
from featureflow.define.version import with_version

NEWCOMER = View(
    name="rider_spent", entity="rider", join_key="rider", keys={"trip": "rider"},
    aggregations=(Aggregation(name="spent", op="sum", source="trip", value=Column("fare"), where=None, windows=WINDOWS[1:], size=1),),
)  # fmt: skip
KEPT_SKETCHES = ("approx_distinct", "top_k")


def keeping() -> Project:
    """What a commit can hold beside rows: ids of which each counts once, cells of sketches, and values that are published."""
    trip = structs.replace(TRIP, fields=(*TRIP.fields, Field(name="id", type="int", nullable=True)), dedupe="id", within_us=60 * SECOND_US)
    rider, zone = with_sketches(PROJECT).views
    chosen = tuple(
        structs.replace(one, windows=WINDOWS[1:2]) if one.op in SKETCHED else one
        for one in rider.aggregations
        if one.op not in SKETCHED or one.op in KEPT_SKETCHES
    )
    views = (structs.replace(rider, aggregations=chosen, publish=True), structs.replace(PROJECT.view(zone.name), ttl_us=zone.ttl_us))
    return structs.replace(PROJECT, sources=(trip,), views=tuple(with_version(view, {"trip": trip}) for view in views))


def larger(project: Project) -> Project:
    """With the newcomer."""
    return structs.replace(project, views=(*project.views, with_version(NEWCOMER, {"trip": project.source("trip")})))


PLAIN, KEEPING = PROJECT, keeping()
