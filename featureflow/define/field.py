"""Typed fields of events and requests."""

from __future__ import annotations

import inspect
import types
from datetime import datetime
from itertools import groupby
from typing import Any, Generic, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints, overload

from featureflow import limits
from featureflow.clock import to_us
from featureflow.define import spec
from featureflow.define.entity import Entity, is_entity
from featureflow.define.expression import Expr, Owner
from featureflow.define.name import a, check_attribute_name, listed, nearest
from featureflow.define.place import Place, wrong
from featureflow.define.vector import Vector

T = TypeVar("T")
K = TypeVar("K", bound="str | int | None")

TYPES: dict[Any, spec.FieldType] = {str: "str", int: "int", float: "float", bool: "bool", datetime: "datetime"}


class Field(Generic[T]):
    """One field: a column expression on the class (``Departure.delay_min > 15``), a plain value on an instance.

    ``T`` is str, int, float, bool, datetime, ``Literal["web", "app"]`` or ``Vector[128]``, or one of them ``| None``.
    """

    def __init__(self, entity: type[Entity[Any]] | None = None) -> None:
        self.entity = entity
        self.owner: Owner
        self.definition: spec.Field

    @overload
    def __get__(self, instance: None, owner: type) -> Expr[T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> Expr[T] | T:
        if instance is None:
            name = self.definition.name
            # a request's column carries its class's name: a model may read several requests and views
            column = f"{owner._definition.name}:{name}" if self.owner.kind == "request" else name  # type: ignore[attr-defined]  # set on every Request
            expr: Expr[T] = Expr(
                spec.Column(column), self.definition.type, frozenset({self.owner}), f"{owner.__name__}.{name}"
            )
            expr.categories, expr.size = self.definition.categories, self.definition.size
            return expr
        value: T = instance.__dict__[self.definition.name]
        return value

    def __set__(self, instance: object, value: T) -> None:
        instance.__dict__[self.definition.name] = checked(value, self.definition, type(instance).__name__)


def key(entity: type[Entity[K]]) -> Field[K]:
    """A field that holds the id of ``entity``: ``carrier: Field[str] = key(Carrier)``."""
    if not is_entity(entity):
        raise wrong(
            f"key({_shown(entity)}) names no entity", write="key(Carrier), after class Carrier(Entity[str]): ..."
        )
    return Field(entity)


def bind(cls: type, kind: Literal["event", "request"], at: Place) -> tuple[spec.Field, ...]:
    """Read the class's annotations and put a bound Field in place of each. Returns their definitions, in order.

    Raises DefinitionError for a field whose type or name is not allowed.
    """
    names = inspect.get_annotations(cls)
    for name, value in vars(cls).items():
        if isinstance(value, Field) and name not in names:
            raise wrong(
                f"{cls.__name__}.{name} has no type", write=f"{name}: Field[str] = key(...)", at=at.within(name)
            )
    try:
        hints = get_type_hints(cls)
    except NameError as error:
        _unknown_type(cls, names, error, at)
    if len(names) > limits.FIELDS:
        raise wrong(f"{cls.__name__} has {len(names)} fields; the limit is {limits.FIELDS}", write="two events", at=at)
    found = []
    for name in names:
        check_attribute_name(name, f"a field of {cls.__name__}", at)
        if hasattr(cls.__mro__[1], name):
            raise wrong(
                f"{cls.__name__}.{name} hides a name of {cls.__mro__[1].__name__}",
                write="another name",
                at=at.within(name),
            )
        default = vars(cls).get(name)
        if default is not None and not isinstance(default, Field):
            raise wrong(
                f"{cls.__name__}.{name} has the value {default!r}; a field has no default",
                write=f"{name}: Field[float | None]   (null where it is not known)",
                at=at.within(name),
            )
        field: Field[Any] = default or Field()
        most = limits.REQUEST_VECTOR_SIZE if kind == "request" else limits.VECTOR_SIZE
        field.definition = _definition(cls, name, hints[name], field.entity, most, at)
        field.owner = Owner(cls, kind)
        setattr(cls, name, field)
        found.append(field.definition)
    return tuple(found)


def _definition(
    cls: type, name: str, hint: Any, entity: type[Entity[Any]] | None, most: int, at: Place
) -> spec.Field:
    full = f"{cls.__name__}.{name}"
    if get_origin(hint) is not Field:
        inner = hint if hint in TYPES else float
        raise wrong(
            f"{full} is annotated {_shown(hint)}; a field's type stands in Field[...]",
            write=f"{name}: Field[{_shown(inner)}]",
            at=at.within(name),
        )
    (value,) = get_args(hint)
    nullable = False
    if get_origin(value) in (Union, types.UnionType):
        rest = [arg for arg in get_args(value) if arg is not type(None)]
        nullable = len(rest) < len(get_args(value))
        value = rest[0] if len(rest) == 1 else value
    if get_origin(value) is Literal or get_origin(value) is Vector or value is Vector:
        return _of_many(full, name, value, nullable, entity, most, at)
    if value not in TYPES:
        meant = next((one for one in TYPES if _shown(one) in _shown(value).lower()), float)
        raise wrong(
            f"{full} has the type {_shown(value)}; a field is a str, int, float, bool, datetime, Literal or Vector, or one of them | None",
            write=f"{name}: Field[{_shown(meant)}]",
            at=at.within(name),
        )
    type_ = TYPES[value]
    if entity is not None and type_ != entity._definition.type:
        null = " | None" if nullable else ""
        raise wrong(
            f"{full} is {a(type_)}, but the id of {entity.__name__} is {a(entity._definition.type)}",
            write=f"{name}: Field[{entity._definition.type}{null}] = key({entity.__name__})",
            at=at.within(name),
        )
    return spec.Field(
        name=name,
        type=type_,
        nullable=nullable,
        entity=entity._definition.name if entity else None,
        max_bytes=limits.KEY_BYTES if entity else limits.STRING_BYTES,
    )


def _of_many(
    full: str, name: str, value: Any, nullable: bool, entity: type[Entity[Any]] | None, most: int, at: Place
) -> spec.Field:
    """The definition of a field that is one of several strings, or a vector of several numbers, ``most`` at the most."""
    if entity is not None:
        raise wrong(
            f"{full} is the id of {entity.__name__}, so that its type is that of the id",
            write=f"{name}: Field[{entity._definition.type}] = key({entity.__name__})",
            at=at.within(name),
        )
    if get_origin(value) is not Literal:
        size = next(iter(get_args(value)), None)
        if type(size) is not int or not 1 <= size <= most:
            raise wrong(
                f"{full} is a vector of {'no size' if size is None else repr(size)}; "
                f"its size is a whole number from 1 to {most}",
                write=f"{name}: Field[Vector[128]]",
                at=at.within(name),
            )
        return spec.Field(name=name, type="vector", nullable=nullable, size=size)
    nullable = nullable or None in get_args(value)
    found = [one for one in get_args(value) if one is not None]
    size = max(map(_utf8_bytes, found), default=0)
    if any(type(one) is not str for one in found) or not 1 <= len(found) <= limits.CATEGORIES or size > limits.STRING_BYTES:
        raise wrong(
            f"{full} has the categories {listed(map(repr, found[:5]))}; "
            f"they are 1 to {limits.CATEGORIES} strings of at most {limits.STRING_BYTES} bytes",
            write=f'{name}: Field[Literal["web", "app"]]   (or Field[str], for any string)',
            at=at.within(name),
        )
    return spec.Field(
        name=name,
        type="str",
        nullable=nullable,
        max_bytes=limits.STRING_BYTES,
        categories=tuple(one for one, _ in groupby(sorted(found))),
    )


def _utf8_bytes(category: object) -> int:
    """The bytes of a category; too many where it has half a surrogate pair, which no record can carry."""
    try:
        return len(str(category).encode())
    except UnicodeEncodeError:
        return limits.STRING_BYTES + 1


def _unknown_type(cls: type, names: dict[str, Any], error: NameError, at: Place) -> NoReturn:
    unknown = error.name or str(error)
    name = next((name for name, hint in names.items() if unknown in str(hint)), "")
    meant = nearest(unknown, [_shown(one) for one in TYPES])
    raise wrong(
        f"{cls.__name__}.{name} has the type {unknown}, which is not defined in this file",
        write=f"{name}: Field[{meant}]" if meant else f"from ... import {unknown}",
        at=at.within(name),
    ) from None


def _shown(hint: object) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)


def checked(value: Any, field: spec.Field, owner: str) -> Any:
    """The value as the field's type. Raises TypeError or ValueError, naming the field, for one that would be a dead letter."""
    full = f"{owner}.{field.name}"
    if value is None:
        if field.nullable:
            return None
        raise TypeError(f"{full} is None; it takes {a(field.type)}, and its type is not '| None'")
    if field.categories and value not in field.categories:
        raise ValueError(f"{full} is {value!r}; it is one of {listed(map(repr, field.categories))}")
    match field.type, value:
        case "vector", _ if not isinstance(value, str | bytes):
            return _vector(value, field, full)
        case "str", str():
            if field.entity and not value:
                raise ValueError(f"{full} is empty; it is the id of {field.entity}")
            size = len(value.encode("utf-8", "surrogatepass"))
            if size > field.max_bytes:
                raise ValueError(f"{full} has {size} bytes in UTF-8; at most {field.max_bytes} are allowed")
            if not value.isascii() and any(0xD800 <= ord(letter) < 0xE000 for letter in value):
                raise ValueError(f"{full} holds half a surrogate pair, which UTF-8 cannot carry")
            return value
        case ("bool", bool()):
            return value
        case ("int", int()) if not isinstance(value, bool):
            if -limits.INTEGER_ABS <= value <= limits.INTEGER_ABS:
                return value
            raise ValueError(f"{full} is {value}; an int is between -2^53 and 2^53, so that it is exact as a float64")
        case ("float", int() | float()) if not isinstance(value, bool):
            if -limits.NUMBER_ABS < value < limits.NUMBER_ABS:
                return float(value) + 0.0  # -0.0 becomes 0.0
            raise ValueError(f"{full} is {value}; a float is finite and smaller than 2^63 (None where it is not known)")
        case "datetime", datetime():
            try:
                to_us(value)
            except ValueError as error:
                raise ValueError(f"{full}: {error}") from None
            return value
    raise TypeError(f"{full} is {value!r}, {a(type(value).__name__)}; it takes {a(field.type)}")


def _vector(value: Any, field: spec.Field, full: str) -> tuple[float, ...]:
    """The numbers, as a tuple: an event that was checked stays as it is."""
    try:
        numbers = [one.item() if hasattr(one, "item") else one for one in value]
    except TypeError:
        raise TypeError(f"{full} is {value!r}; it takes {field.size} numbers") from None
    if len(numbers) != field.size:
        raise ValueError(f"{full} has {len(numbers)} numbers; it takes {field.size}")
    one = spec.Field(name=field.name, type="float")
    owner = full.removesuffix(f".{field.name}")
    return tuple(checked(number, one, owner) for number in numbers)
