"""Which fields of an event hold the ids of an entity, and what to write where none does or several do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from featureflow.define.entity import Entity
from featureflow.define.event import Event
from featureflow.define.name import listed
from featureflow.define.place import Place, wrong


def keys_of(event: type[Event], of: type[Entity[Any]]) -> list[str]:
    """The names of the event's fields that hold ids of the entity."""
    return [field.name for field in event._definition.fields if field.entity == of._definition.name]


def declared(name: str, of: type[Entity[Any]], event: type[Event]) -> str:
    """How such a field is written, for messages."""
    return f"{name}: Field[{of._definition.type}] = key({of.__name__})   (in {event.__name__})"


def only_key(cls: Any, event: type[Event], of: type[Entity[Any]], at: Place, choose: Callable[[str], str]) -> str:
    """The one field that holds the entity's id, for ``cls``, a View or an Alert. ``choose``: what to write there to say which one.

    Raises DefinitionError where there is none, and where there are several.
    """
    able = keys_of(event, of)
    if not able:
        raise wrong(
            f"{cls.__name__} is of {of.__name__}, but {event.__name__} has no key of {of.__name__}",
            write=declared(of._definition.name, of, event),
            at=at,
        )
    if len(able) > 1:
        raise wrong(
            f"{event.__name__} has {len(able)} keys of {of.__name__} ({listed(able)}): which one is {cls.__name__} about?",
            write=choose(able[0]),
            at=cls._place,
        )
    return able[0]
