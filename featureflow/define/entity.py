"""An entity: what features are about."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, TypeVar, get_args, get_origin

from featureflow.define import spec
from featureflow.define.name import check_class_name, shown
from featureflow.define.place import Place, here, wrong

K_co = TypeVar("K_co", bound="str | int | None", covariant=True)


def is_entity(value: object) -> bool:
    """Whether it is an entity that a user defined."""
    return isinstance(value, type) and issubclass(value, Entity) and value is not Entity


class Entity(Generic[K_co]):
    """Base of entities: ``class Carrier(Entity[str]): ...``. The parameter is the type of its id, ``str`` or ``int``."""

    _definition: ClassVar[spec.Entity]
    _place: ClassVar[Place]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._place = here()
        ids: list[Any] = [
            get_args(base)[0] for base in getattr(cls, "__orig_bases__", ()) if get_origin(base) is Entity
        ]
        if cls.__bases__[0] is not Entity or len(ids) != 1 or ids[0] not in (str, int):
            found = f"has an id of type {shown(ids[0])}" if ids else "does not say the type of its id"
            if cls.__bases__[0] is not Entity:
                found = f"is built on {cls.__bases__[0].__name__}"
            raise wrong(
                f"the entity {cls.__name__} {found}",
                write=f"class {cls.__name__}(Entity[str]): ...   (or Entity[int])",
                at=cls._place,
            )
        cls._definition = spec.Entity(
            name=check_class_name(cls, "entity", cls._place), type="str" if ids[0] is str else "int"
        )
