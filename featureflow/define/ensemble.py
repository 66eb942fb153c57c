"""An ensemble: models and rules that answer as one model. A rule is an expression over features, request fields and scores."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from featureflow.define import spec
from featureflow.define.expression import Expr, Number, Owner, Windowless
from featureflow.define.model import Model, check_context, check_when_missing, deadline_of, refuse_events
from featureflow.define.name import a, check_attribute_name, check_class_name, shown
from featureflow.define.place import Place, here, wrong
from featureflow.define.sequence import Sequence

_EXAMPLE = 'score = when(UserNow.payments["1m"] > 10, 1.0, Late.score * 0.7 + Other.score * 0.3)'


class Ensemble:
    """Base of ensembles.

        class Combined(Ensemble, deadline="30ms"):
            burst = UserNow.payments["1m"] > 10
            score = when(burst, 1.0, Late.score * 0.7 + Other.score * 0.3)

    - ``score``: a number, of the scores of models, of features and of request fields. An ensemble's score stands for its expression, so
      that an ensemble may be calculated with in another.
    - every other name of the body is a rule: a number or a condition. ``explain`` shows it, and the prediction log keeps it.
    - ``deadline`` and ``when_missing`` are as a Model's.

    Its answer is undefined, and refused, where its score is.
    """

    _definition: ClassVar[spec.Model]
    _place: ClassVar[Place]
    _members: ClassVar[tuple[type[Model], ...]]
    _owners: ClassVar[frozenset[Owner]]    # of what its rules and its members read
    score: ClassVar[Number]

    def __init_subclass__(cls, *, deadline: str, when_missing: Literal["default", "refuse"] = "default") -> None:
        super().__init_subclass__()
        at = cls._place = here()
        name = check_class_name(cls, "ensemble", at)
        if cls.__bases__ != (Ensemble,):
            raise wrong(
                f"the ensemble {cls.__name__} is built on another class", write=f"class {cls.__name__}(Ensemble, deadline=...)", at=at
            )
        deadline_us = deadline_of(cls, deadline, at)
        check_when_missing(when_missing, at)
        rules = _rules(cls, at)
        score = _number(cls, rules.pop("score", None), at.within("score"))
        written = [*rules.values(), score]
        owners = dict.fromkeys(owner for one in written for owner in sorted(one.owners, key=lambda o: o.cls.__name__))
        members = cls._members = tuple(owner.cls for owner in owners if owner.kind == "score")
        for member in members:
            assert issubclass(member, Model)  # only a model's score has such an owner
        cut = _Cut(cls, at, {expr.node: rule for rule, expr in rules.items()})
        ensemble = spec.Ensemble(
            members=tuple(member._definition.name for member in members),
            rules=tuple(spec.Rule(name=rule, expr=cut.of(expr)) for rule, expr in rules.items()),
            score=cut.of(score),
        )
        inputs = tuple(
            spec.Input(name=f"{member._definition.name}.{one.name}", expr=one.expr, size=one.size, default=one.default)
            for member in members
            for one in member._definition.inputs
        )
        cls._definition = spec.Model(
            name=name,
            inputs=(*inputs, *(spec.Input(name=input_name, expr=node) for node, input_name in cut.inputs.items())),
            deadline_us=deadline_us,
            drift=0.0,
            when_missing=when_missing,
            ensemble=ensemble,
        )
        cls._owners = frozenset(owners).union(*(member._owners for member in members))
        check_context(cls, cls._definition.inputs, cls._owners, at)


def _rules(cls: type[Ensemble], at: Place) -> dict[str, Expr[Any]]:
    """The names of the body and what stands for them, ``score`` among them."""
    found: dict[str, Expr[Any]] = {}
    for name, value in vars(cls).items():
        if name.startswith("__") or name == "_place":
            continue
        place = at.within(name)
        if isinstance(value, Windowless):
            value.refuse(place)
        if isinstance(value, Sequence):
            raise wrong(
                f"{cls.__name__}.{name} is {value.one.text}, a sequence of values, and a rule is one",
                write=f"{name} = ... of mean(sequence), or max, min, sum or len of it, before it meets a score",
                at=place,
            )
        if not isinstance(value, Expr):
            raise wrong(
                f"{cls.__name__}.{name} is {shown(value)}; an Ensemble's body holds rules, which are expressions, and its score",
                write=f"{name} = Late.score" if isinstance(value, type) and issubclass(value, Model) else _EXAMPLE,
                at=place,
            )
        if name != "score":
            check_attribute_name(name, f"a rule of {cls.__name__}", at)
        _check(cls, name, value, place)
        found[name] = value
    return found


def _check(cls: type[Ensemble], name: str, value: Expr[Any], at: Place) -> None:
    what = f"{cls.__name__}.{name}"
    if value.type not in ("int", "float", "bool"):
        raise wrong(
            f"{what} is {value.text}, {a(value.type)}; a rule is a number or a condition",
            write=f'{name} = {value.text} == "..."' if value.type == "str" else f"{name} = a number or a comparison",
            at=at,
        )
    refuse_events(value, what, at)
    if not value.owners:
        raise wrong(f"{what} reads no score, no feature and no request field", write=_EXAMPLE, at=at)


def _number(cls: type[Ensemble], score: Expr[Any] | None, at: Place) -> Expr[Any]:
    if score is None:
        raise wrong(f"{cls.__name__} has no score", write=_EXAMPLE, at=at)
    if score.type == "bool":
        raise wrong(
            f"{cls.__name__}.score is {score.text}, which is true or false and no number",
            write=f"score = when({score.text}, 1.0, 0.0)",
            at=at,
        )
    return score


class _Cut:
    """Cuts expressions where scores come in: what is of features and request fields alone becomes an input of the ensemble."""

    def __init__(self, cls: type[Ensemble], at: Place, rules: dict[spec.Expr, str]) -> None:
        self._cls, self._at, self._rules = cls, at, rules
        self.inputs: dict[spec.Expr, str] = {}  # expression -> the name of its input
        self._scores = {spec.score_column(member._definition.name) for member in cls._members}

    def of(self, value: Expr[Any]) -> spec.Expr:
        return self._of(value.node, value)

    def _of(self, node: spec.Expr, whole: Expr[Any]) -> spec.Expr:
        if isinstance(node, spec.Literal) or (isinstance(node, spec.Column) and node.name in self._scores):
            return node
        if not self._scores.intersection(spec.columns_of(node)):
            return spec.Column(self._input(node))
        assert isinstance(node, spec.Call)
        if node.op == "spread":
            raise wrong(
                f"{whole.text} calculates with a score and a sequence value by value",
                write="mean of the sequence first (or max, min, sum, len), then the score with that",
                at=self._at,
            )
        return spec.Call(node.op, tuple(self._of(arg, whole) for arg in node.args))

    def _input(self, node: spec.Expr) -> str:
        found = self.inputs.get(node)
        if found is None:
            named = self._rules.get(node)
            found = node.name if isinstance(node, spec.Column) else f"rule.{named or len(self.inputs)}"
            self.inputs[node] = found
        return found
