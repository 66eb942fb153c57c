"""A view's version: of equal meaning, and so of equal state, where it is equal."""

from __future__ import annotations

import hashlib

import msgspec

from featureflow.define.spec import Aggregation, Source, View, columns_of, is_keyed


def with_version(view: View, sources: dict[str, Source]) -> View:
    """The view with ``version`` set: the first 10 hex digits of the SHA-256 of everything that decides its values.

    Defaults and names of aggregations, and whether its values are published, are presentation and leave the version (and so the state)
    as it is, so they are excluded; event time, disorder, tolerance, what tells duplicates, and the types of the fields that it reads are
    included, and whether those may be null: a record with a null where there may be none is no event.
    """
    meaning = {
        "entity": view.entity,
        "keys": view.keys,
        "ttl_us": view.ttl_us,
        "aggregations": [
            (
                a.op, a.source, msgspec.to_builtins(a.value), msgspec.to_builtins(a.where), msgspec.to_builtins(a.windows), a.size,
                *_parameters(a),
            )
            for a in view.aggregations
        ],
        "sources": {
            name: (
                s.topic, s.time_field, s.disorder_us, s.future_us, is_keyed(view, s),
                sorted(
                    (f, s.by_name[f].text)
                    for f in {view.keys[name]}.union(*(
                        columns_of(expr) for a in view.aggregations if a.source == name for expr in a.exprs
                    ))
                ),
                *(() if s.dedupe is None else (s.dedupe, s.by_name[s.dedupe].text, s.within_us)),
            )
            for name, s in ((name, sources[name]) for name in view.keys)
        },
    }
    digest = hashlib.sha256(msgspec.json.encode(meaning, order="deterministic")).hexdigest()[:10]
    return msgspec.structs.replace(view, version=digest)


def _parameters(a: Aggregation) -> tuple[tuple[str, object], ...]:
    """What else decides the value, by name. What an aggregation has not is left out: a parameter that is new leaves old versions alone."""
    named = (
        ("per_us", a.per_us), ("half_life_us", a.half_life_us), ("width", a.width), ("by", msgspec.to_builtins(a.by)),
        ("entry", msgspec.to_builtins(a.entry)), ("error", a.error), ("q", a.q + 1), ("vector", a.vector),
    )  # fmt: skip
    return tuple((name, value) for name, value in named if value)
