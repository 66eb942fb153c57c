"""An event: what happens. A typed stream on one topic."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, ClassVar, dataclass_transform, get_args

import msgspec

from featureflow.define import spec
from featureflow.define.field import Field, bind, key
from featureflow.define.name import a, check_class_name, listed, nearest
from featureflow.define.place import Place, here, wrong
from featureflow.define.window import SECOND_US, duration

_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")


@dataclass_transform(kw_only_default=True, field_specifiers=(key,))
class Event:
    """Base of events.

        class Departure(Event, topic="departures", time="left_at", disorder="10m"):
            left_at: Field[datetime]
            carrier: Field[str] = key(Carrier)
            delay_min: Field[float | None]

    - ``topic``: where the events are.
    - ``time``: the datetime field that says when it happened, the event time.
    - ``disorder``: how late an event may be, against the newest of its partition.
    - ``future``: how far beyond the broker's timestamp an event time may lie before the event is refused.
    - ``dedupe``, ``within``: the field that is the same in each copy of an event, and how long, in event time, copies are looked for.
    - ``format``: what the records are written in: json, or avro or protobuf with a schema registry.
    - ``keyed_by``: the field that is the record's key, where every producer promises it; views of that entity then keep one key.

    An instance is an event to produce; ``to_json()`` is the record's value.
    """

    _definition: ClassVar[spec.Source]
    _place: ClassVar[Place]
    _fields: ClassVar[dict[str, Field[Any]]]

    def __init_subclass__(
        cls,
        *,
        topic: str,
        time: str,
        disorder: str,
        future: str = "5m",
        keyed_by: str | None = None,
        format: spec.Format = "json",
        dedupe: str | None = None,
        within: str | None = None,
    ) -> None:
        super().__init_subclass__()
        at = cls._place = here()
        name = check_class_name(cls, "event", at)
        if cls.__bases__ != (Event,):
            raise wrong(
                f"the event {cls.__name__} is built on another class",
                write=f"class {cls.__name__}(Event, topic=...)",
                at=at,
            )
        if not _is_topic(topic):
            raise wrong(
                f"topic={topic!r} of {cls.__name__} is no topic of yours: 1 to 249 of a-z A-Z 0-9 . _ -, not starting with featureflow.",
                write=f'topic="{name}s"',
                at=at,
            )
        disorder_us = duration(disorder, f"disorder= of {cls.__name__}", "10m", at)
        future_us = duration(future, f"future= of {cls.__name__}", "5m", at)
        fields = bind(cls, "event", at)
        cls._fields = {field.name: vars(cls)[field.name] for field in fields}
        _check_time(cls, time, fields, at)
        _check_keyed_by(cls, keyed_by, fields, at)
        within_us = _check_dedupe(cls, dedupe, within, fields, at)
        cls._definition = spec.Source(
            name=name,
            topic=topic,
            time_field=time,
            disorder_us=disorder_us,
            future_us=future_us,
            fields=fields,
            keyed_by=keyed_by,
            dedupe=dedupe,
            within_us=within_us,
            format=_checked_format(cls, format, at),
        )

    def __init__(self, **values: Any) -> None:
        unknown, absent = values.keys() - self._fields.keys(), self._fields.keys() - values.keys()
        if unknown or absent:
            said = [f"has no field {listed(sorted(unknown))}"] * bool(unknown) + [
                f"needs {listed(sorted(absent))}"
            ] * bool(absent)
            raise TypeError(f"{type(self).__name__} {' and '.join(said)}")
        for name, value in values.items():
            setattr(self, name, value)

    def to_json(self) -> bytes:
        """The record's value: a JSON object, datetimes as RFC 3339 in UTC, vectors as lists."""
        values = {name: self.__dict__[name] for name in self._fields}
        return msgspec.json.encode({k: v.astimezone(UTC) if isinstance(v, datetime) else v for k, v in values.items()})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={self.__dict__[name]!r}' for name in self._fields)})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.__dict__ == self.__dict__

    __hash__ = None  # type: ignore[assignment]  # mutable, so not hashable; assigning None is Python's way to say so


def _is_topic(topic: object) -> bool:
    return (
        isinstance(topic, str)
        and _TOPIC.fullmatch(topic) is not None
        and topic not in (".", "..")
        and not topic.startswith("featureflow.")
    )


def _check_time(cls: type[Event], time: object, fields: tuple[spec.Field, ...], at: Place) -> None:
    found = next((field for field in fields if field.name == time), None)
    instants = [field.name for field in fields if field.type == "datetime" and not field.nullable]
    meant = nearest(str(time), instants) or next(iter(instants), None)
    write = (
        f'time="{meant}"'
        if meant
        else f"{time if isinstance(time, str) else 'happened_at'}: Field[datetime]   (in {cls.__name__})"
    )
    if found is None:
        raise wrong(f"time={time!r}, but {cls.__name__} has no field of that name", write=write, at=at)
    if found.type != "datetime" or found.nullable:
        kind = f"{found.type} | None" if found.nullable else found.type
        raise wrong(
            f"time={time!r} of {cls.__name__} is {a(kind)}; the event time is a datetime that is never null",
            write=write,
            at=at,
        )


def _check_keyed_by(cls: type[Event], keyed_by: object, fields: tuple[spec.Field, ...], at: Place) -> None:
    if keyed_by is None:
        return
    able = [field.name for field in fields if field.type in ("str", "int") and not field.nullable]
    if keyed_by in able:
        return
    meant = nearest(str(keyed_by), able) or next(
        (field.name for field in fields if field.entity and field.name in able), None
    )
    found = next((field for field in fields if field.name == keyed_by), None)
    if found is None:
        problem = f"is no field of {cls.__name__}; the fields are {listed(field.name for field in fields)}"
    else:
        kind = a(found.type) + (" | None" if found.nullable else "")
        problem = f"of {cls.__name__} is {kind}; a record's key is a str or an int that is never null"
    raise wrong(
        f"keyed_by={keyed_by!r} {problem}",
        write=f'keyed_by="{meant}", where each record\'s key is that field' if meant else "no keyed_by=",
        at=at,
    )


def _check_dedupe(
    cls: type[Event], dedupe: object, within: str | None, fields: tuple[spec.Field, ...], at: Place
) -> int:
    """The horizon in us; 0 where there is none."""
    if dedupe is None and within is None:
        return 0
    able = [field.name for field in fields if field.type in ("str", "int") and not field.categories]
    meant = nearest(str(dedupe), able) or next((name for name in able if "id" in name), None)
    if dedupe not in able:
        problem = (
            f"within={within!r} of {cls.__name__} has no dedupe= beside it"
            if dedupe is None
            else f"dedupe={dedupe!r} of {cls.__name__} is no field of it that is a str or an int"
        )
        raise wrong(
            problem,
            write=f"dedupe=\"{meant}\", within=\"1h\"" if meant else f"event_id: Field[str]   (in {cls.__name__})",
            at=at,
        )
    if within is None:
        raise wrong(
            f'dedupe="{dedupe}" of {cls.__name__} does not say how long copies are looked for',
            write=f'dedupe="{dedupe}", within="1h"',
            at=at,
        )
    us = duration(within, f"within= of {cls.__name__}", "1h", at)
    if us < SECOND_US or us % SECOND_US:
        raise wrong(
            f'within="{within}" of {cls.__name__} is not a whole number of seconds, at least one',
            write=f'within="{max(1, us // SECOND_US)}s"',
            at=at,
        )
    return us


def _checked_format(cls: type[Event], format: spec.Format, at: Place) -> spec.Format:
    known: tuple[spec.Format, ...] = get_args(spec.Format)
    if format not in known:
        meant = nearest(str(format), known) or "json"
        raise wrong(
            f"format={format!r} of {cls.__name__} is none of {listed(known)}", write=f'format="{meant}"', at=at
        )
    return format
