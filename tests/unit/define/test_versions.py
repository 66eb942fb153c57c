"""Versions of views, and the ids of their state, outlive the versions of FeatureFlow."""

from __future__ import annotations

from pathlib import Path

from unit.kernel.worlds import LIFETIME, X, aggregation, hopping, sliding, source, tumbling, view

from featureflow.define import project
from featureflow.define.spec import Call, Literal
from featureflow.kernel.columns import Layout

FLIGHTS = Path(__file__).parent / "flights.py"


def test_what_was_defined_once_keeps_its_version_and_its_state() -> None:
    """Were one of these to change, every state in every store would be folded anew after an upgrade."""
    flights = project.load(FLIGHTS)
    found = {v.id: [f"{Layout.of(v, flights.source(s)).id:016x}" for s in v.sources] for v in flights.views}
    assert found == {
        "carrier_now@9c11b2604b": ["c4b26175ac08daba", "0588192f0d7f6e0a"],
        "origin_now@372acdcf36": ["b5aaf48336f02d11"],
        "aircraft_now@0d579f4964": ["e2350f79568509dd"],
    }
    windows = [sliding(600), tumbling(90), LIFETIME]
    positive = Call("gt", (X, Literal(0.0)))
    ops = ("count", "sum", "mean", "min", "max", "stddev", "last")
    several = view([aggregation(op, windows, name=op, size=3, where=positive) for op in ops], [source()], ttl_s=3600)
    assert (several.version, Layout.of(several, source()).id) == ("4ae089dce8", 0x2DD729A03E53A0EE)


def test_another_hop_offset_or_unit_is_another_version() -> None:
    def version(op: str, window: object, **how: int) -> str:
        return view([aggregation(op, [window], **how)], [source()]).version  # type: ignore[list-item]

    windows = [tumbling(600), tumbling(600, 60), hopping(600, 60), hopping(600, 120), hopping(600, 120, 60)]
    assert len({version("count", window) for window in windows}) == len(windows)
    assert version("rate", sliding(600)) != version("rate", sliding(600), per_s=1)
