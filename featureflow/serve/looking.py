"""A request for features between what read it from its connection and the scorer: the same for both readers of HTTP."""

from __future__ import annotations

from typing import ClassVar

from featureflow.errors import FeatureFlowError, RequestError
from featureflow.pending import Pending
from featureflow.reading.plan import ViewPlan
from featureflow.serve import problem
from featureflow.serve.answer import Answer, Shed
from featureflow.serve.lookups import Ids, Show
from featureflow.serve.priority import NOBODY, Caller
from featureflow.serve.request import check_id, instant_us
from featureflow.serve.scorer import Scorer
from featureflow.serve.scoring import answered
from featureflow.serve.wire import v1

Asked = tuple[Ids, int | None]  # the ids, and the instant where one is named


class Looking:
    """One request: it has begun when this is made, and ``future`` says when it can be answered. ``show`` makes the answer."""

    route: ClassVar = "features"
    __slots__ = ("_lookup", "_scorer", "future", "id", "target")

    def __init__(
        self, scorer: Scorer, view: ViewPlan, asked: Asked, show: Show, *, request_id: str, since_s: float, caller: Caller = NOBODY
    ) -> None:
        self._scorer, self.id, self.target = scorer, request_id, view.view.name
        self._lookup = scorer.lookups.ask(view, *asked, show, since_s=since_s, caller=caller)
        self.future: Pending[Answer | Shed | FeatureFlowError] = self._lookup.future

    def answer(self) -> Answer:
        """What to send, once the future is done. Raises UnavailableError; RequestError (422) for an instant that has no exact answer."""
        told = self.future.result()
        if isinstance(told, FeatureFlowError):
            raise told
        return answered(self._scorer.metrics, told, self._lookup.deadline, self.id)


def read(view: ViewPlan, body: bytes) -> Asked:
    """What a body asks for. Raises RequestError: 400 for one that is not JSON, 422 for one that does not fit the view."""
    try:
        asked = v1.FEATURES_BODY.decode(body)
    except (ValueError, RecursionError) as error:
        raise problem.undecodable(error, body) from None
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
