"""A request for features between what read it from its connection and the scorer: the same for both readers of HTTP."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from featureflow.errors import RequestError
from featureflow.reading.features import Features
from featureflow.reading.plan import ViewPlan
from featureflow.serve import problem
from featureflow.serve.answer import Answer
from featureflow.serve.request import check_id, instant_us
from featureflow.serve.scorer import Scorer
from featureflow.serve.shown import Shown
from featureflow.serve.wire import v1


class Looking:
    """One request: it has begun when this is made, and ``future`` says when it can be answered.

    Raises RequestError: 400 for a body that is not JSON, 422 for one that does not fit the view.
    """

    route: ClassVar = "features"
    __slots__ = ("_shown", "future", "id", "target")

    def __init__(self, scorer: Scorer, shown: Shown, view: ViewPlan, body: bytes, *, request_id: str) -> None:
        self._shown, self.id, self.target = shown, request_id, view.view.name
        ids, at_us = _asked(view, body)
        self.future: asyncio.Future[tuple[int, Features]] = (
            scorer.lookups.ask(view, ids) if at_us is None else asyncio.ensure_future(scorer.features(view, ids, at_us))
        )

    def answer(self) -> Answer:
        """What to send, once the future is done. Raises UnavailableError; RequestError (422) for an instant that has no exact answer."""
        return self._shown.many(*self.future.result())


def _asked(view: ViewPlan, body: bytes) -> tuple[list[str | int | None], int | None]:
    """The ids, and the instant where one is named."""
    try:
        asked = v1.FEATURES_BODY.decode(body)
    except (ValueError, RecursionError) as error:
        raise problem.undecodable(error) from None
    at_us = None if asked.at is None else instant_us(asked.at, "at")
    join_key, ids = view.view.join_key, []
    for i, entity in enumerate(asked.entities):
        if isinstance(entity, dict):
            if entity.keys() != {join_key}:
                raise RequestError("Wrong entities", f'entities[{i}] must be an id or {{"{join_key}": id}}', status=422)
            entity = entity[join_key]
        check_id(entity, view.entity_type, f"entities[{i}]")
        ids.append(entity)
    return ids, at_us
