"""One model's part of a turn."""

from __future__ import annotations

from featureflow.serve.answer import Shed
from featureflow.serve.plan import ModelPlan
from featureflow.serve.request import Row
from featureflow.serve.turn import Batch


class Work:
    """Requests, their rows one after another, and each row's place in each view's features."""

    __slots__ = ("places", "plan", "ref", "requests", "rows")

    def __init__(self, plan: ModelPlan, ref: str, requests: Batch, rows: list[Row], places: list[list[int]]) -> None:
        self.plan, self.ref, self.requests, self.rows, self.places = plan, ref, requests, rows, places

    def shed(self, why: Shed) -> None:
        for request in self.requests:
            if not request.future.done():
                request.future.set_result(why)

    def refuse_rows(self, refused: set[int], why: Shed) -> None:
        at = 0
        for request in self.requests:
            first, at = at, at + len(request.rows)
            if not request.future.done() and any(row in refused for row in range(first, at)):
                request.future.set_result(why)
