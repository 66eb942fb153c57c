"""A request: what a caller sends beside entity ids."""

from __future__ import annotations

from typing import ClassVar

from featureflow.define import spec
from featureflow.define.field import bind
from featureflow.define.name import check_class_name
from featureflow.define.place import Place, here, wrong


class Request:
    """Base of requests: ``class Ask(Request): hour: Field[int]``. Its fields are a score request's ``context``."""

    _definition: ClassVar[spec.Request]
    _place: ClassVar[Place]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        at = cls._place = here()
        name = check_class_name(cls, "request", at)
        if cls.__bases__ != (Request,):
            raise wrong(
                f"the request {cls.__name__} is built on another class", write=f"class {cls.__name__}(Request):", at=at
            )
        fields = bind(cls, "request", at)
        for field in fields:
            if field.entity is not None:
                raise wrong(
                    f"{cls.__name__}.{field.name} is a key; the ids come with the request's entities, not with its context",
                    write=f"{field.name}: Field[{field.type}]",
                    at=at.within(field.name),
                )
        cls._definition = spec.Request(name=name, fields=fields)
