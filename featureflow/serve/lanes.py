"""Turns of a model that computes for long go beside those of the others, and in a queue of their own.

There is one turn at a time of the models that the event loop computes itself: they travel together, by one read. A slow model's inference
runs in a thread. In turns with the others it would hold all of them up although the loop is idle meanwhile: 20 requests a second of a model
that takes 50 ms left one of 20 ms deadline 1 % of its answers in time, and leaves it all of them with lanes (measured).

    request -> its model's lane -> admission -> turn -> Way.go          one lane for all quick models, one for each slow one
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from featureflow.serve.admission import Admission
from featureflow.serve.answer import Shed
from featureflow.serve.apart import apart
from featureflow.serve.request import Request
from featureflow.serve.turn import Run, Turns

UNDER_WAY = 2  # turns of a slow model: one computes, and what the next one reads is there when it has ended
SLOW_S = 0.001  # an inference that takes longer does not hold the event loop up: who must be refused hears of it meanwhile


class Lanes:
    """Belongs to one event loop. ``run`` is what a lane's turns do, and ``send`` sends their answers."""

    def __init__(self, run: Run, admission: Callable[[], Admission] = Admission, send: Callable[[], None] = lambda: None) -> None:
        self._run, self._admission, self._send = run, admission, send
        self.quick = Turns(run, admission(), send)
        self._slow: dict[str, Turns] = {}

    def of(self, kind: str) -> Turns:
        """The lane of requests of this kind, a model's name."""
        return self._slow.get(kind, self.quick)

    def join(self, request: Request) -> Shed | None:
        """Queue the request for its lane's coming turn, or say why not. One of more rows than a turn takes is let in or refused whole, and
        goes as several, between which others have their share; one of candidates that are ranked together stays whole.
        """
        lane, rows = self.of(request.kind), len(request.rows)
        if rows > 1 and request.ranking is None and rows > (most := lane.admission.rows_of_a_turn(request)):
            return self._apart(lane, request, most)
        return lane.join(request)

    def _apart(self, lane: Turns, request: Request, most: int) -> Shed | None:
        if refused := lane.admission.refused(request):
            return refused
        rows, of = request.rows, range(len(request.rows))
        places = [of[first : first + most] for first in of[::most]]
        for at, told in zip(places, apart(request.future, places), strict=True):
            again = request.again and (request.again[0], at if request.again[1] is None else request.again[1][at.start : at.stop])
            part = msgspec.structs.replace(request, rows=rows[at.start : at.stop], future=told, again=again)
            lane.join(part, let_in=True)
        return None

    def tell(self, kind: str, row_s: float) -> None:
        """What the model computes for a single row. What waits stays where it is; a model that has become quick leaves its lane once
        nobody waits in it and no other turn of it is under way.
        """
        own = self._slow.get(kind)
        if own is None:
            if row_s >= SLOW_S:
                own = self._slow[kind] = Turns(self._run, self._admission(), self._send)
                own.admission.under_way = UNDER_WAY
                own.admission.lags(self.quick.admission.lag_s)
                own.admission.adopt(kind, self.quick.admission)
        elif row_s < SLOW_S / 2 and not own.waiting and own.active <= 1:  # the one that tells
            del self._slow[kind]

    def lags(self, seconds: float) -> None:
        """The event loop is behind by so much."""
        for turns in self._all():
            turns.admission.lags(seconds)

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return sum(turns.waiting for turns in self._all())

    @property
    def active(self) -> int:
        """Turns under way."""
        return sum(turns.active for turns in self._all())

    def _all(self) -> Iterator[Turns]:
        yield self.quick
        yield from self._slow.values()
