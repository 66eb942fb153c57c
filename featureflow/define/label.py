"""A label: what a model's scores turned out to be worth. It is an event as any other, joined to the scores by entity and time."""

from __future__ import annotations

from typing import ClassVar

from featureflow.define import spec
from featureflow.define.ensemble import Ensemble
from featureflow.define.entity import Entity
from featureflow.define.event import Event
from featureflow.define.expression import Expr, Truth
from featureflow.define.keys import declared, keys_of
from featureflow.define.model import Model
from featureflow.define.name import a, check_class_name, listed, nearest, shown
from featureflow.define.place import Place, here, wrong
from featureflow.define.view import views_of
from featureflow.define.window import duration

SHORTEST_US = 1_000_000


class Label:
    """Base of labels.

        class Chargeback(Label, of=Fraud, source=Dispute, entity="user", value=Dispute.lost, within="30d", absent=False): ...

    A score's label is the first event of its entity, from the instant of the score on and ``within`` so long, of which ``value`` is known.

    - ``of``: the model or ensemble; ``source``: the event that says how it turned out.
    - ``entity``: the join key that both name: a request's entity, and a key of the event.
    - ``value``: true or false of each event; one that is null is no label.
    - ``within``: how long after a score its label may come.
    - ``absent``: what a score was that got no label in that time: True or False; left out, it does not count.
    - ``over``: how far back the rolling accuracy looks, by the time of the labels.
    """

    _definition: ClassVar[spec.Label]
    _place: ClassVar[Place]
    _uses: ClassVar[tuple[type, ...]]

    def __init_subclass__(
        cls,
        *,
        of: type[Model] | type[Ensemble],
        source: type[Event],
        entity: str,
        value: Truth,
        within: str,
        absent: bool | None = None,
        over: str = "7d",
    ) -> None:
        super().__init_subclass__()
        at = cls._place = here()
        name = check_class_name(cls, "label", at)
        if cls.__bases__ != (Label,):
            raise wrong(f"the label {cls.__name__} is built on another class", write=f"class {cls.__name__}(Label, of=...)", at=at)
        _check_kinds(cls, of, source, absent, at)
        cls._uses = (of, source)
        cls._definition = spec.Label(
            name=name,
            model=of._definition.name,
            source=source._definition.name,
            entity=entity,
            field=_field(cls, of, source, entity, at),
            value=_value(cls, source, value, at),
            within_us=_long(cls, "within", within, "30d", at),
            over_us=_long(cls, "over", over, "7d", at),
            absent=absent,
        )


def _check_kinds(cls: type[Label], of: object, source: object, absent: object, at: Place) -> None:
    if not (isinstance(of, type) and issubclass(of, Model | Ensemble)):
        raise wrong(f"of={shown(of)} of {cls.__name__} is no model", write="of=Fraud, a Model or an Ensemble", at=at)
    if not (isinstance(source, type) and issubclass(source, Event)):
        raise wrong(f"source={shown(source)} of {cls.__name__} is no event", write="source=Dispute", at=at)
    if absent is not None and not isinstance(absent, bool):
        raise wrong(f"absent={absent!r} of {cls.__name__} is neither True nor False", write="absent=False, or leave it out", at=at)


def _long(cls: type[Label], word: str, value: str, example: str, at: Place) -> int:
    us = duration(value, f"{word}= of {cls.__name__}", example, at)
    if us < SHORTEST_US:
        raise wrong(f"{word}={value!r} of {cls.__name__} is shorter than a second", write=f'{word}="{example}"', at=at)
    return us


def _value(cls: type[Label], source: type[Event], value: object, at: Place) -> spec.Expr:
    if not isinstance(value, Expr) or value.type != "bool":
        found = f"{value.text}, {a(value.type)}" if isinstance(value, Expr) else shown(value)
        numeric = isinstance(value, Expr) and value.type in ("int", "float")
        raise wrong(
            f"value= of {cls.__name__} is {found}; a label is true or false",
            write=f"value={value.text} > 0" if numeric and isinstance(value, Expr) else _example(source),
            at=at,
        )
    others = [owner.cls.__name__ for owner in value.owners if owner.cls is not source]
    if others or not value.owners:
        raise wrong(
            f"value={value.text} of {cls.__name__} reads {listed(others) if others else 'no field'}, not {source.__name__}",
            write=_example(source),
            at=at,
        )
    return value.node


def _example(source: type[Event]) -> str:
    able = [field.name for field in source._definition.fields if field.type == "bool"]
    return f"value={source.__name__}.{able[0]}" if able else f"value= a comparison of fields of {source.__name__}"


def _field(cls: type[Label], of: type[Model] | type[Ensemble], source: type[Event], entity: object, at: Place) -> str:
    """The field of the source that holds the id."""
    keys = _join_keys(of)
    if not isinstance(entity, str) or entity not in keys:
        meant = nearest(entity, keys) if isinstance(entity, str) else None
        raise wrong(
            f"entity={entity!r} of {cls.__name__} is no join key of {of.__name__}: a score of it names {listed(keys)}",
            write=f'entity="{meant or next(iter(keys), "user")}"',
            at=at,
        )
    kind = keys[entity]
    able = keys_of(source, kind)
    if entity in able or len(able) == 1:
        return entity if entity in able else able[0]
    raise wrong(
        f"{source.__name__} has "
        + (f"{len(able)} keys of {kind.__name__} ({listed(able)}), none of them named {entity}" if able else f"no key of {kind.__name__}"),
        write=declared(entity, kind, source),
        at=at,
    )


def _join_keys(of: type[Model] | type[Ensemble]) -> dict[str, type[Entity[str]] | type[Entity[int]]]:
    """The names by which a request names the model's entities."""
    return {view._definition.join_key: view._of for view in views_of(of._owners)}
