"""A feature view: aggregations of one entity."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any, ClassVar, Final

from featureflow import limits
from featureflow.define import spec
from featureflow.define.aggregation import Aggregation, OfWindows
from featureflow.define.decayed import Decayed
from featureflow.define.entity import Entity, is_entity
from featureflow.define.event import Event
from featureflow.define.expression import Expr, Owner
from featureflow.define.keys import declared, keys_of, only_key
from featureflow.define.name import check_attribute_name, check_class_name, listed, shown
from featureflow.define.place import Place, here, wrong
from featureflow.define.window import duration


class Unset(Enum):
    """Tells ``ttl=None`` (never) from no ``ttl=`` at all."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET
ENTRY_RANKS = 3                            # columns of an entry beside what it keeps, at most
PUBLISHED_NAMES = ("view", "as_of")        # beside the features in what a view publishes; see ``store.online.published``


class View:
    """Base of feature views.

        class OriginNow(View, of=Airport, role=Departure.origin):
            worst = max(Departure.delay_min, over=("3h",))

    - ``of``: the entity.
    - ``role``: which field holds its id, where an event has several of that entity; a tuple, one field per event.
    - ``ttl``: how long after its event a lifetime or last_n value counts; required for them, None is for ever.
    - ``publish``: keep its values in the online store too, as JSON that any Redis client reads.
    """

    _definition: ClassVar[spec.View]
    _place: ClassVar[Place]
    _aggregations: ClassVar[dict[str, Aggregation]]
    _of: ClassVar[type[Entity[Any]]]

    def __init_subclass__(
        cls,
        *,
        of: type[Entity[Any]],
        role: Expr[str | int | None] | tuple[Expr[str | int | None], ...] | None = None,
        ttl: str | Unset | None = UNSET,
        publish: bool = False,
    ) -> None:
        super().__init_subclass__()
        at = cls._place = here()
        name = check_class_name(cls, "view", at)
        if cls.__bases__ != (View,):
            raise wrong(
                f"the view {cls.__name__} is built on another class", write=f"class {cls.__name__}(View, of=...)", at=at
            )
        if not is_entity(of):
            raise wrong(
                f"of={shown(of)} of {cls.__name__} is no entity", write=f"class {cls.__name__}(View, of=Carrier)", at=at
            )
        cls._of = of
        cls._aggregations = _aggregations(cls, at)
        roles = _roles(cls, of, role, at)
        keys: dict[str, str] = {}
        for aggregation in cls._aggregations.values():
            event = aggregation.event
            keys.setdefault(event._definition.name, _key(cls, of, event, roles, aggregation.place))
        for event in roles:
            if event._definition.name not in keys:
                raise wrong(
                    f"role= names {event.__name__}, which {cls.__name__} does not aggregate",
                    write="role= without it",
                    at=at,
                )
        cls._definition = spec.View(
            name=name,
            entity=of._definition.name,
            join_key=next(iter(roles.values()), of._definition.name),
            keys=keys,
            aggregations=tuple(one for aggregation in cls._aggregations.values() for one in aggregation.definitions()),
            ttl_us=_ttl(cls, ttl, at),
            publish=publish,
        )
        _check_features(cls, at)
        _check_publish(cls, publish, at)
        for attribute, aggregation in cls._aggregations.items():
            if isinstance(aggregation, Decayed):
                setattr(cls, attribute, aggregation.feature())


def views_of(owners: Iterable[Owner]) -> list[type[View]]:
    """The views among these, in the order of their names."""
    found = {owner.cls for owner in owners if owner.kind == "feature" and issubclass(owner.cls, View)}
    return sorted(found, key=lambda view: view._definition.name)


def _aggregations(cls: type[View], at: Place) -> dict[str, Aggregation]:
    found: dict[str, Aggregation] = {}
    for name, value in vars(cls).items():
        if name.startswith("__") or (name.startswith("_") and name in ("_place", "_of")):
            continue
        if not isinstance(value, Aggregation):
            expression = isinstance(value, Expr)
            raise wrong(
                f"{cls.__name__}.{name} is {value.text if expression else shown(value)}; a View's body holds aggregations only",
                write="the derived feature in the Model's body"
                if expression
                else f'{name} = mean(Departure.delay_min, over=("1h",))',
                at=at.within(name),
            )
        check_attribute_name(name, f"an aggregation of {cls.__name__}", at)
        value.belong(cls, name)
        found[name] = value
    if not found:
        raise wrong(
            f"{cls.__name__} has no aggregations",
            write='flights = count(Departure, over=("1h",))   (in its body)',
            at=at,
        )
    return found


def _roles(cls: type[View], of: type[Entity[Any]], role: object, at: Place) -> dict[type[Event], str]:
    """Event class -> the field that holds this view's id there, as far as ``role=`` says."""
    roles: dict[type[Event], str] = {}
    for one in () if role is None else role if isinstance(role, tuple) else (role,):
        owner = next(iter(one.owners), None) if isinstance(one, Expr) and isinstance(one.node, spec.Column) else None
        if owner is None or not issubclass(owner.cls, Event) or not isinstance(one.node, spec.Column):
            raise wrong(
                f"role={one if isinstance(one, Expr) else shown(one)} of {cls.__name__} is no field of an event",
                write="role=Departure.origin",
                at=at,
            )
        field, able = one.node.name, keys_of(owner.cls, of)
        if field not in able:
            raise wrong(
                f"role={one.text} of {cls.__name__} is not a key of {of.__name__}",
                write=f"role={owner.cls.__name__}.{able[0]}" if able else declared(field, of, owner.cls),
                at=at,
            )
        if owner.cls in roles:
            raise wrong(
                f"role= of {cls.__name__} names two fields of {owner.cls.__name__}", write="one field per event", at=at
            )
        roles[owner.cls] = field
    return roles


def _key(cls: type[View], of: type[Entity[Any]], event: type[Event], roles: dict[type[Event], str], at: Place) -> str:
    if event in roles:
        return roles[event]
    return only_key(
        cls, event, of, at, choose=lambda field: f"class {cls.__name__}(View, of={of.__name__}, role={event.__name__}.{field})"
    )


def _ttl(cls: type[View], ttl: object, at: Place) -> int | None:
    lasting = [a for a in cls._aggregations.values() if any(window.kind == "lifetime" for window in a.windows)]
    if not lasting:
        if ttl is not UNSET:
            raise wrong(
                f"ttl= of {cls.__name__} has no effect: it is for lifetime windows and last_n, and there are none",
                write=f"class {cls.__name__}(View, of={cls._of.__name__}) without ttl=",
                at=at,
            )
        return None
    if ttl is UNSET:
        what = "has a lifetime window" if isinstance(lasting[0], OfWindows) else "is a last_n"
        raise wrong(
            f"{lasting[0].text} {what}, so {cls.__name__} must say how long after its event a value counts",
            write=f'class {cls.__name__}(View, of={cls._of.__name__}, ttl="30d"); ttl=None is for ever',
            at=at,
        )
    if ttl is None:
        return None
    us = duration(ttl, f"ttl= of {cls.__name__}", "30d", at)
    if us < 1_000_000:
        raise wrong(f"ttl={ttl!r} of {cls.__name__} is shorter than a second", write='ttl="30d"', at=at)
    return us


def _check_features(cls: type[View], at: Place) -> None:
    names: dict[str, Aggregation] = {}
    declared = {one.name: aggregation for aggregation in cls._aggregations.values() for one in aggregation.definitions()}
    for feature in cls._definition.features:
        aggregation = declared[feature.aggregation.name]
        if feature.name in names:
            raise wrong(
                f"{aggregation.text} and {names[feature.name].text} both make the feature {feature.reference}",
                write="another name for one of them",
                at=aggregation.place,
            )
        names[feature.name] = aggregation
    vectors = [aggregation for aggregation in cls._aggregations.values() if aggregation.vector]
    row_bytes = sum(8 * (aggregation.vector + ENTRY_RANKS) for aggregation in vectors)
    if row_bytes > limits.VECTORS_BYTES:
        raise wrong(
            f"the vectors of {cls.__name__} ({listed(f'{one.name}: {one.vector}' for one in vectors)} numbers) make a row of its state "
            f"{row_bytes} bytes long; the limit is {limits.VECTORS_BYTES}",
            write="two views, or shorter vectors",
            at=vectors[-1].place,
        )
    sketched = [aggregation for aggregation in cls._aggregations.values() if aggregation.error]
    if len(sketched) > limits.SKETCHES:
        raise wrong(
            f"{cls.__name__} has {len(sketched)} approximate aggregations; the limit is {limits.SKETCHES}",
            write="two views",
            at=sketched[limits.SKETCHES].place,
        )
    if len(names) > limits.FEATURES_PER_VIEW:
        raise wrong(
            f"{cls.__name__} has {len(names)} features; the limit is {limits.FEATURES_PER_VIEW}",
            write="two views",
            at=at,
        )


def _check_publish(cls: type[View], publish: object, at: Place) -> None:
    """A worker finalizes what it has just folded, so it must have all of an entity: one event, in one partition for each id."""
    of = cls._of.__name__
    if publish is False:
        return
    if publish is not True:
        raise wrong(
            f"publish={shown(publish)} of {cls.__name__} is neither True nor False",
            write=f"class {cls.__name__}(View, of={of}, publish=True)",
            at=at,
        )
    events = list(dict.fromkeys(aggregation.event for aggregation in cls._aggregations.values()))
    if len(events) > 1:
        raise wrong(
            f"{cls.__name__} is published and aggregates {listed(event.__name__ for event in events)}: what is published is written "
            "with the state of one event, and no worker has an entity's state of all of them",
            write=f"a view for each event: class {cls.__name__}{events[0].__name__}(View, of={of}, publish=True)",
            at=at,
        )
    event = events[0]
    field = cls._definition.keys[event._definition.name]
    if event._definition.keyed_by != field:
        raise wrong(
            f"{cls.__name__} is published, and the events of one {of} may be in every partition of {event.__name__}: no worker has all "
            "of them",
            write=f'class {event.__name__}(Event, keyed_by="{field}", ...), where each record\'s key is that field; or no publish=',
            at=at,
        )
    for feature in cls._definition.features:
        if feature.name in PUBLISHED_NAMES:
            raise wrong(
                f"{feature.reference} is published, where {feature.name!r} stands for "
                + ("the view's version" if feature.name == "view" else "the instant that the values are of"),
                write=f"another name, such as {feature.name}_value",
                at=at,
            )
