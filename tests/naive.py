"""What the values of a project should be by a naive replay of its records, and how they differ from what was found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import oracle
from featureflow.clock import NO_TIME_US
from featureflow.define.spec import Project, View
from featureflow.kernel.finalize import Status, Values


def answers(view: View, ids: Sequence[str | int], found: Values) -> dict[str | int, list[oracle.Answer]]:
    """The kernel's values of these entities in the oracle's form."""
    return {
        entity: [
            oracle.Answer(
                tuple((found.texts[i][row] if feature.is_text else found.values[row, span]).tolist()),
                Status(int(found.statuses[row, i])).letter,
                None if (time_us := int(found.event_times_us[row, i])) == NO_TIME_US else time_us,
            )
            for i, (feature, span) in enumerate(zip(view.features, view.spans, strict=True))
        ]
        for row, entity in enumerate(ids)
    }


class Naive:
    """A replay of the records: which ones each view takes, once, then any entity at any instant."""

    def __init__(self, project: Project, records: Sequence[oracle.Record]) -> None:
        self.project = project
        self.sources = {source.name: source for source in project.sources}
        self._mine: dict[str, dict[str | int, list[oracle.Record]]] = {}
        for view in project.views:
            by_entity: dict[str | int, list[oracle.Record]] = defaultdict(list)
            for record in oracle.counting(view, self.sources, records):
                by_entity[record.fields[view.keys[record.source]]].append(record)
            self._mine[view.name] = by_entity

    def records(self, view: View, entity: str | int) -> list[oracle.Record]:
        """Those that count for the entity."""
        return self._mine[view.name].get(entity, [])

    def ids(self, view: View) -> list[str | int]:
        return sorted(self._mine[view.name], key=str)

    def values(self, view: View, ids: Sequence[str | int], q_us: int) -> dict[str | int, list[oracle.Answer]]:
        return {entity: oracle.answer(view, self.records(view, entity), q_us) for entity in ids}


def differences(one: Mapping[str | int, Sequence[oracle.Answer]], other: Mapping[str | int, Sequence[oracle.Answer]]) -> list[str]:
    """Nothing where both are equal to the bit, undefined being equal to undefined."""
    found = [f"{entity!r} is only in one" for entity in one.keys() ^ other.keys()]
    for entity in one.keys() & other.keys():
        for i, (a, b) in enumerate(zip(one[entity], other[entity], strict=True)):
            if (_hex(a.values), a.status, a.event_time_us) != (_hex(b.values), b.status, b.event_time_us):
                found.append(f"{entity!r} feature {i}: {a} and {b}")
    return found


def _hex(values: Sequence[float | str | None]) -> list[str]:
    return [repr(value) if value is None or isinstance(value, str) else "nan" if value != value else _bits(value) for value in values]


def _bits(value: float) -> str:
    return (value + 0.0).hex()             # -0.0 is 0.0
