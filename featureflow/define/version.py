"""Versions: of a view, whose state is of equal meaning where they are equal; and of one feature, for whoever was trained on it."""

from __future__ import annotations

import hashlib

import msgspec

from featureflow.define.spec import Aggregation, Feature, Source, View, columns_of, is_keyed


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
    return msgspec.structs.replace(view, version=_digest(meaning))


def feature_version(view: View, feature: Feature, source: Source) -> str:
    """The first 10 hex digits of the SHA-256 of what one feature is: what it calculates of which events, and what it is where none counts.

    Another feature beside it makes another version of its view, and leaves this one as it is. So does what decides which records count
    as events: how late or early one may be, what tells duplicates, nulls and categories that are taken. Its default is part of it.
    """
    a = feature.aggregation
    read = {view.keys[source.name], source.time_field}.union(*(columns_of(expr) for expr in a.exprs))
    meaning = {
        "entity": (view.entity, view.keys[source.name]),
        "source": (source.name, source.time_field),
        "fields": sorted((name, source.by_name[name].type, source.by_name[name].size) for name in read),
        "aggregation": (a.op, msgspec.to_builtins(a.value), msgspec.to_builtins(a.where), a.size, *_parameters(a)),
        "window": msgspec.to_builtins(feature.window),
        "default": a.default,
        **({} if view.ttl_us is None or feature.window.kind != "lifetime" else {"ttl_us": view.ttl_us}),
    }
    return _digest(meaning)


def _digest(meaning: object) -> str:
    return hashlib.sha256(msgspec.json.encode(meaning, order="deterministic")).hexdigest()[:10]


def _parameters(a: Aggregation) -> tuple[tuple[str, object], ...]:
    """What else decides the value, by name. What an aggregation has not is left out: a parameter that is new leaves old versions alone."""
    named = (
        ("per_us", a.per_us), ("half_life_us", a.half_life_us), ("width", a.width), ("by", msgspec.to_builtins(a.by)),
        ("entry", msgspec.to_builtins(a.entry)), ("error", a.error), ("q", a.q + 1), ("vector", a.vector),
    )  # fmt: skip
    return tuple((name, value) for name, value in named if value)
