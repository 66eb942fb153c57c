"""When an event could have been known: what a training row may see of history.

Event time alone would be leakage: an event that arrived after the instant that is asked about was in no online store then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from featureflow.define.spec import Source
from featureflow.errors import RequestError
from featureflow.kernel.events import Events

NEVER_US = 2**63 - 1


@dataclass(frozen=True)
class Visibility:
    """An event is visible from its ``known_at`` field (or its event time where none is named) plus a delay.

    ``known_at``: source name -> datetime field; null there is: never visible. ``delay_us``: source name -> microseconds, ``"*"`` for
    every source that is not named.
    """

    known_at: Mapping[str, str] = field(default_factory=dict)
    delay_us: Mapping[str, int] = field(default_factory=dict)

    def check(self, sources: Iterable[Source]) -> None:
        """Raise RequestError for a source of which nothing is declared, or a field that cannot say when."""
        sources = tuple(sources)
        if undeclared := self.undeclared(sources):
            raise RequestError(
                "Unknown visibility",
                f"nothing says when an event of {undeclared[0]!r} could have been known; by its event time alone "
                "a row would see the future. "
                f"Write known_at={{{undeclared[0]!r}: 'FIELD'}} or a delay, such as delay='5s'",
            )
        for source in sources:
            name = self.known_at.get(source.name)
            if name is not None:
                declared = source.by_name.get(name)
                if declared is None or declared.type != "datetime":
                    raise RequestError(
                        "Unknown visibility",
                        f"{name!r} is to say when an event of {source.name!r} was known, but it is no datetime field of it; there are "
                        + ", ".join(f.name for f in source.fields if f.type == "datetime"),
                    )
            if self._delay(source.name) < 0:
                raise RequestError(
                    "Unknown visibility",
                    f"the delay of event {source.name!r} is negative: it would be seen before it happened",
                )

    def undeclared(self, sources: Iterable[Source]) -> list[str]:
        """Names of the sources of which nothing says when their events were known."""
        declared = {*self.known_at, *self.delay_us}
        return [] if "*" in declared else [source.name for source in sources if source.name not in declared]

    def columns(self, source: str) -> tuple[str, ...]:
        """Fields of the source's events that ``seen_us`` reads."""
        name = self.known_at.get(source)
        return () if name is None else (name,)

    def seen_us(self, source: str, events: Events) -> NDArray[np.int64]:
        """(n,) the instant each event is visible from, int64 microseconds."""
        name = self.known_at.get(source)
        if name is None:
            return events.times_us + self._delay(source)
        known = events.columns[name]
        null = np.isnan(known)
        seen = np.where(null, 0, known).astype(np.int64) + self._delay(source)
        seen[null] = NEVER_US
        return seen

    def _delay(self, source: str) -> int:
        return self.delay_us.get(source, self.delay_us.get("*", 0))
