"""A model: which features and request fields go in, how fast, how exact. Derived features stand in its body."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeAlias

from featureflow import limits
from featureflow.define import spec
from featureflow.define.aggregation import Aggregation
from featureflow.define.expression import Expr, Number, Owner, Windowless
from featureflow.define.name import a, check_attribute_name, check_class_name, shown
from featureflow.define.place import Place, here, wrong
from featureflow.define.sequence import Numbers, Sequence, Strings, Truths
from featureflow.define.vector import Vector
from featureflow.define.window import duration

DRIFT = 0.1  # the largest drift that a definition may allow
DEADLINE_US = 60_000_000

MYPY = False                               # as in define.vector: to mypy a vector is Any, and Expr[Any] would let strings through

if MYPY:
    Vectors: TypeAlias = Numbers
else:
    Vectors: TypeAlias = "Expr[Vector | None]"
InputExpr: TypeAlias = "Number | Numbers | Truths | Vectors"


class Model:
    """Base of models.

        class Late(Model, deadline="20ms", drift=0.03):
            trend = CarrierNow.delay["1h"] - CarrierNow.delay["6h"]
            inputs = (trend, OriginNow.worst["3h"], Ask.hour)
            defaults = {trend: 0.0}

    - ``inputs``: derived features of this body, features and request fields, in the order in which the model takes them. Where its file
      takes several tensors, each by name: ``inputs = {"dense": (trend, Ask.hour), "history": CarrierNow.last_delays, "image": Ask.image}``;
      one is of single values (batch, d), or of sequences of one length (batch, n, d).
    - ``defaults``: what to put where an input is undefined; one without default is left to the model's impute transform.
    - ``deadline``: how long an answer may take.
    - ``drift``: how far a quantized variant's score may be from FP32, at most 0.1.
    - ``when_missing``: state lost or unreachable: answer with defaults and say so, or refuse (503).
    - ``max_age``: state that was read so long ago at most may be taken without reading it again; without it each request reads.
    - ``stale_for``: where the store does not answer, state that was read so long ago at most stands in, and is marked ``stale``.
    - ``cache_scores``: of so many different inputs at most the score is remembered, for as long as one version answers; 0: of none.
    """

    _definition: ClassVar[spec.Model]
    _place: ClassVar[Place]
    _owners: ClassVar[frozenset[Owner]]    # of what it reads
    inputs: ClassVar[tuple[InputExpr, ...] | Mapping[str, InputExpr | tuple[InputExpr, ...]]]
    defaults: ClassVar[Mapping[InputExpr, float]]
    score: ClassVar[Expr[float]]           # what the model says, for an Ensemble to calculate with

    def __init_subclass__(
        cls,
        *,
        deadline: str,
        drift: float,
        when_missing: Literal["default", "refuse"] = "default",
        max_age: str | None = None,
        stale_for: str | None = None,
        cache_scores: int = 0,
    ) -> None:
        super().__init_subclass__()
        at = cls._place = here()
        name = check_class_name(cls, "model", at)
        if cls.__bases__ != (Model,):
            raise wrong(
                f"the model {cls.__name__} is built on another class",
                write=f"class {cls.__name__}(Model, deadline=...)",
                at=at,
            )
        deadline_us = deadline_of(cls, deadline, at)
        if not _is_drift(drift):
            raise wrong(f"drift={drift!r} of {cls.__name__} is not between 0 and {DRIFT}", write="drift=0.03", at=at)
        check_when_missing(when_missing, at)
        max_age_us = _age(cls, "max_age", max_age, limits.MAX_AGE_US, "1s", at)
        stale_for_us = _age(cls, "stale_for", stale_for, limits.STALE_FOR_US, "10m", at)
        if stale_for is not None and stale_for_us < max_age_us:
            raise wrong(
                f"stale_for={stale_for!r} of {cls.__name__} is shorter than max_age={max_age!r}, which is taken at any time",
                write=f'stale_for="10m", or no stale_for= beside max_age={max_age!r}',
                at=at,
            )
        if type(cache_scores) is not int or not 0 <= cache_scores <= limits.CACHED_SCORES:
            raise wrong(
                f"cache_scores={cache_scores!r} of {cls.__name__} is no whole number between 0 and {limits.CACHED_SCORES:,}",
                write="cache_scores=10_000",
                at=at,
            )
        groups = _groups(cls, at)
        inputs, tensors = _inputs(cls, groups, at)
        cls._owners = _owners_of(groups)
        check_context(cls, inputs, cls._owners, at.within("inputs"))
        cls._definition = spec.Model(
            name=name,
            inputs=inputs,
            deadline_us=deadline_us,
            drift=float(drift),
            when_missing=when_missing,
            tensors=tensors,
            max_age_us=max_age_us,
            stale_for_us=stale_for_us,
            cache_scores=cache_scores,
        )
        cls.score = Expr(spec.Column(spec.score_column(name)), "float", frozenset({Owner(cls, "score")}), f"{cls.__name__}.score")


def deadline_of(cls: type, deadline: str, at: Place) -> int:
    """Microseconds. Raises DefinitionError."""
    deadline_us = duration(deadline, f"deadline= of {cls.__name__}", "20ms", at)
    if not 0 < deadline_us <= DEADLINE_US:
        raise wrong(f"deadline={deadline!r} of {cls.__name__} is not between 1ms and 60s", write='deadline="20ms"', at=at)
    return deadline_us


def check_when_missing(when_missing: str, at: Place) -> None:
    """Raises DefinitionError."""
    if when_missing not in ("default", "refuse"):
        raise wrong(f"when_missing={when_missing!r} is unknown", write='when_missing="default" or when_missing="refuse"', at=at)


def _age(cls: type[Model], option: str, text: str | None, limit_us: int, example: str, at: Place) -> int:
    if text is None:
        return 0
    us = duration(text, f"{option}= of {cls.__name__}", example, at)
    if not 0 < us <= limit_us:
        raise wrong(
            f"{option}={text!r} of {cls.__name__} is not between 1ms and {limit_us // 60_000_000}m", write=f'{option}="{example}"', at=at
        )
    return us


def _is_drift(drift: object) -> bool:
    return isinstance(drift, int | float) and not isinstance(drift, bool) and 0 <= drift <= DRIFT


def _groups(cls: type[Model], at: Place) -> dict[str, tuple[object, ...]]:
    """Tensor -> what it is made of, as written; of a plain tuple the one tensor has no name."""
    written = vars(cls).get("inputs")
    if isinstance(written, dict) and written:
        groups = {name: value if isinstance(value, tuple) else (value,) for name, value in written.items()}
        bad = next((name for name, values in groups.items() if not isinstance(name, str) or not name or not values), None)
        if bad is None:
            return groups
        what = f"has the tensor {bad!r}" + ("" if groups[bad] else " of no inputs")
        raise wrong(
            f"{cls.__name__} {what}; a tensor has the name that the model's file gives it, and at least one input",
            write='inputs = {"dense": (CarrierNow.delay["1h"], Ask.hour)}', at=at.within("inputs"),
        )
    if not isinstance(written, tuple) or not written:
        found = "has no inputs" if written is None else f"has inputs = {written!r}, not a tuple of them"
        raise wrong(
            f"{cls.__name__} {found}", write='inputs = (CarrierNow.delay["1h"], Ask.hour)', at=at.within("inputs")
        )
    return {"": written}


def _inputs(
    cls: type[Model], groups: Mapping[str, tuple[object, ...]], at: Place
) -> tuple[tuple[spec.Input, ...], tuple[spec.Tensor, ...]]:
    derived = _derived(cls, at)
    inputs: dict[str, spec.Input] = {}
    tensors = []
    for tensor, values in groups.items():
        before = len(inputs)
        _add_inputs(cls, inputs, values, derived, at)
        own = list(inputs.values())[before:]
        if tensor:
            tensors.append(spec.Tensor(name=tensor, inputs=tuple(one.name for one in own)))
        if tensor and len({one.size for one in own}) > 1:
            sizes = ", ".join(f"{one.name} has {one.size}" for one in own)
            raise wrong(
                f"the tensor {tensor!r} of {cls.__name__} is of inputs of several lengths: {sizes}",
                write="a tensor for the single values, and one for the sequences of each length", at=at.within("inputs"),
            )
    return tuple(_with_defaults(cls, inputs, derived, at).values()), tuple(tensors)


def _add_inputs(
    cls: type[Model], inputs: dict[str, spec.Input], values: tuple[object, ...], derived: dict[int, str], at: Place
) -> None:
    for value in values:
        one = _input(cls, value, derived, at)
        place = value.place if isinstance(value, Expr) and id(value) not in derived else at.within("inputs")
        if one.name in inputs:
            same = inputs[one.name].expr == one.expr
            raise wrong(
                f"{cls.__name__} has two inputs named {one.name}" + (": the same one twice" if same else ""),
                write="it once"
                if same
                else f"other_{one.name.rpartition(':')[2]} = ... in the body, and that name in inputs",
                at=place,
            )
        inputs[one.name] = one


def check_context(cls: type, inputs: tuple[spec.Input, ...], owners: frozenset[Owner], at: Place) -> None:
    """A caller names a request's field without its class: two fields of one name would both take the one value sent.

    owners: of everything that the model or ensemble reads. Raises DefinitionError.
    """
    requests = {owner.cls._definition.name: owner.cls.__name__ for owner in owners if owner.kind == "request"}  # type: ignore[attr-defined]  # set on every Request
    first: dict[str, str] = {}
    for column in dict.fromkeys(name for one in inputs for name in spec.columns_of(one.expr)):
        request, _, name = column.partition(":")
        if request in requests and (other := first.setdefault(name, request)) != request:
            raise wrong(
                f"{cls.__name__} reads {requests[other]}.{name} and {requests[request]}.{name}, and a caller sends one {name}",
                write="another name for one of them",
                at=at,
            )


def _owners_of(groups: Mapping[str, tuple[object, ...]]) -> frozenset[Owner]:
    read = [value.one if isinstance(value, Sequence) else value for values in groups.values() for value in values]
    return frozenset(owner for value in read if isinstance(value, Expr) for owner in value.owners)


def _derived(cls: type[Model], at: Place) -> dict[int, str]:
    """id of a derived feature's expression -> its name."""
    names: dict[int, str] = {}
    for name, value in vars(cls).items():
        if name.startswith("__") or name in ("_place", "inputs", "defaults"):
            continue
        if name == "score":
            raise wrong(
                f"{cls.__name__}.score is what the model says, and is not written here",
                write="another name for the derived feature; or class ...(Ensemble), whose score is an expression",
                at=at.within(name),
            )
        if isinstance(value, Aggregation) and value.view is None:
            raise wrong(
                f"{cls.__name__}.{name} aggregates events, which a View does",
                write=f"{name} = {value.op}(...) in the body of a View, and View.{name}[...] here",
                at=at.within(name),
            )
        if isinstance(value, Sequence):
            check_attribute_name(name, f"a derived feature of {cls.__name__}", at)
            _check_scope(value.one, f"{cls.__name__}.{name}", at.within(name))
            names.setdefault(id(value), name)
            continue
        if isinstance(value, Windowless):
            value.refuse(at.within(name))
        if not isinstance(value, Expr):
            raise wrong(
                f"{cls.__name__}.{name} is {shown(value)}; a Model's body holds derived features, inputs and defaults",
                write=f'{name} = CarrierNow.delay["1h"] - CarrierNow.delay["6h"]',
                at=at.within(name),
            )
        check_attribute_name(name, f"a derived feature of {cls.__name__}", at)
        _check_scope(value, f"{cls.__name__}.{name}", at.within(name))
        names.setdefault(id(value), name)
    return names


def _input(cls: type[Model], value: object, derived: dict[int, str], at: Place) -> spec.Input:
    if isinstance(value, Sequence):
        return _sequence(cls, value, derived, at)
    if isinstance(value, Windowless):
        value.refuse(at.within("inputs"))
    if not isinstance(value, Expr):
        raise wrong(
            f"{cls.__name__} has the input {shown(value)}, which is no feature, request field or derived feature",
            write='CarrierNow.delay["1h"], without quotes round it'
            if isinstance(value, str)
            else 'CarrierNow.delay["1h"]',
            at=at.within("inputs"),
        )
    if value.type in ("str", "datetime"):
        raise wrong(
            f"the input {value.text} of {cls.__name__} is {a(value.type)}; a model takes numbers",
            write=f'is_it = {value.text} == "..."   (a derived feature), or send a number'
            if value.type == "str"
            else "a number",
            at=value.place,
        )
    _check_scope(value, f"the input {value.text} of {cls.__name__}", value.place)
    if id(value) in derived:
        return spec.Input(name=derived[id(value)], expr=value.node)
    if not isinstance(value.node, spec.Column):
        raise wrong(
            f"the input {value.text} of {cls.__name__} has no name",
            write=f"a_name = {value.text}   (in the body), and a_name in inputs",
            at=value.place,
        )
    owner = next(iter(value.owners))
    name = value.node.name.partition(":")[2] if owner.kind == "request" else value.node.name
    return spec.Input(name=name, expr=value.node, size=value.size if value.type == "vector" else 1)


def _sequence(cls: type[Model], value: Sequence, derived: dict[int, str], at: Place) -> spec.Input:
    one, place = value.one, getattr(value, "place", at) if id(value) not in derived else at.within("inputs")
    if isinstance(value, Strings):
        raise wrong(
            f"the input {one.text} of {cls.__name__} is a sequence of strings; a model takes numbers",
            write=f'are_it = {one.text} == "..."   (a derived feature), or len({one.text})',
            at=at.within("inputs"),
        )
    _check_scope(one, f"the input {one.text} of {cls.__name__}", place)
    if id(value) not in derived and not isinstance(one.node, spec.Column):
        raise wrong(
            f"the input {one.text} of {cls.__name__} has no name",
            write=f"a_name = {one.text}   (in the body), and a_name in inputs",
            at=place,
        )
    name = derived.get(id(value)) or one.node.name  # type: ignore[union-attr]  # a column, as just looked at
    return spec.Input(name=name, expr=one.node, size=value.length)


def refuse_events(value: Expr[Any], what: str, at: Place) -> None:
    """Raises DefinitionError where it reads a field of an event."""
    for owner in value.owners:
        if owner.kind == "event":
            raise wrong(
                f"{what} reads a field of the event {owner.cls.__name__}, and a score has no one event to read it from",
                write=f"a feature: last({value.text}, over=...) in a View, then View.name[...]",
                at=at,
            )


def _check_scope(value: Expr[Any], what: str, at: Place) -> None:
    for owner in value.owners:
        if owner.kind == "score":
            raise wrong(
                f"{what} reads the score of {owner.cls.__name__}, and a model is given features and request fields",
                write=f"class ...(Ensemble, deadline=...): score = {owner.cls.__name__}.score * 0.7 + ...",
                at=at,
            )
    refuse_events(value, what, at)
    if not value.owners:
        raise wrong(f"{what} reads no feature and no request field", write='CarrierNow.delay["1h"]', at=at)


def _with_defaults(
    cls: type[Model], inputs: dict[str, spec.Input], derived: dict[int, str], at: Place
) -> dict[str, spec.Input]:
    defaults = vars(cls).get("defaults", {})
    at = at.within("defaults")
    if not isinstance(defaults, dict):
        raise wrong(
            f"defaults of {cls.__name__} is {defaults!r}, not a dict",
            write='defaults = {CarrierNow.delay["1h"]: 0.0}',
            at=at,
        )
    found = dict(inputs)
    for key, default in defaults.items():
        if isinstance(key, Sequence):
            node: spec.Expr | None = key.one.node
        elif isinstance(key, Windowless):
            key.refuse(at)
        else:
            node = key.node if isinstance(key, Expr) else None
        text = key.one.text if isinstance(key, Sequence) else getattr(key, "text", repr(key))
        own = derived.get(id(key))
        name = own if own in inputs else next((one.name for one in inputs.values() if one.expr == node), None)
        place = key.place if isinstance(key, Expr) and isinstance(key.node, spec.Column) else at
        if name is None:
            raise wrong(
                f"defaults of {cls.__name__} names {text}, which is not one of its inputs",
                write="an input, as in inputs",
                at=place,
            )
        if isinstance(default, bool) or not isinstance(default, int | float) or not math.isfinite(default):
            raise wrong(
                f"the default of {text} is {default!r}, not a number",
                write=f"{text}: 0.0, or leave it out: the model's impute transform fills what is undefined",
                at=place,
            )
        if found[name].default is not None:
            raise wrong(f"defaults of {cls.__name__} names {text} twice", write="it once", at=place)
        found[name] = spec.Input(name=name, expr=found[name].expr, size=found[name].size, default=float(default))
    return found
