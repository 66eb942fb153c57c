"""One model's part of a turn."""

from __future__ import annotations

from featureflow.models.loaded import LoadedModel
from featureflow.serve.answer import Shed
from featureflow.serve.plan import ModelPlan
from featureflow.serve.request import Row
from featureflow.serve.turn import Batch


class Work:
    """Requests, their rows one after another, and each row's place in each view's features."""

    __slots__ = ("loaded", "places", "plan", "requests", "rows")

    def __init__(
        self, plan: ModelPlan, loaded: LoadedModel, requests: Batch, rows: list[Row], places: list[list[int]]
    ) -> None:
        self.plan, self.loaded, self.requests, self.rows, self.places = plan, loaded, requests, rows, places

    def refuse_rows(self, refused: set[int], why: Shed) -> None:
        """Answer each request that has one of these rows with ``why``."""
        at = 0
        for request in self.requests:
            first, at = at, at + len(request.rows)
            if not request.future.done() and any(row in refused for row in range(first, at)):
                request.future.set_result(why)
