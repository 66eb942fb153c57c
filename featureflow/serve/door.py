"""Refusing before anything is parsed: a plain request that admission would refuse is answered with bytes that lie ready.

It is asked only while requests are being refused. What the body says of deadline and priority counts as ever: a body that names either
goes the whole way. Shedding must cost a small part of what serving does, or it bounds nothing.
"""

from __future__ import annotations

from time import monotonic

from featureflow.serve import problem
from featureflow.serve.answer import Answer
from featureflow.serve.deadline import budget_of
from featureflow.serve.lookups import DEADLINE_S
from featureflow.serve.plain_request import Head
from featureflow.serve.priority import Caller
from featureflow.serve.response import ResponseHeads
from featureflow.serve.scorer import Scorer

RETRY_S = 1
SMALL_BYTES = 1024  # a body of so many has few rows
IN_BODY = (b'"deadline_ms"', b'"priority"')
PLACE = "@id@"
HEAD = (
    f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: {problem.CONTENT_TYPE}\r\nServer: featureflow\r\nRetry-After: {RETRY_S}\r\n"
)
ESCAPED = frozenset('"\\')
WHY = {
    "predicted_late": ("Not answered in time", "an answer is predicted to come after its deadline"),
    "queue_full": ("Not answered", "the queue is full; send fewer rows at a time, or try again"),
    "lag": ("Not answered in time", "the server is behind"),
    "connections": ("Not answered", "the server has as many connections as it may; keep them alive and share them"),
    "connections_share": ("Not answered", "your address has its share of the server's connections; keep them alive and share them"),
}


class Door:
    """One per server."""

    def __init__(self, scorer: Scorer, heads: ResponseHeads) -> None:
        self._scorer, self._heads = scorer, heads
        self._known = {reason: _split(title, detail) for reason, (title, detail) in WHY.items()}
        self._date, self._head = b"", ""
        self._counts = {reason: scorer.metrics.shed.labels(reason) for reason in WHY}

    def refusal(self, head: Head, data: bytes, caller: Caller, since_s: float) -> str:
        """Why the request is refused as it stands, as ``Shed.reason`` has it; empty where it is to be read."""
        plan = self._scorer.served.plan
        model = None if plan is None else plan.models.get(head.model)
        if model is None or IN_BODY[0] in data or IN_BODY[1] in data:
            return ""
        budget_s = budget_of(caller.deadline_ms, model.deadline_s)
        rows = 1 if head.body_bytes <= SMALL_BYTES else max(1, data.count(b'"entities"'))
        left_s = since_s + budget_s - monotonic()
        return self._scorer.lanes.of(head.model).admission.refusal(head.model, caller.client, caller.priority, rows, left_s, budget_s)

    def refusal_of_lookup(self, head: Head, data: bytes, caller: Caller, since_s: float) -> str:
        """The same of a request for features, which has as many ids as its body has commas, or fewer."""
        plan = self._scorer.served.plan
        if plan is None or head.target not in plan.views:
            return ""
        budget_s = budget_of(caller.deadline_ms, DEADLINE_S)
        rows, left_s = data.count(b",", head.bytes) + 1, since_s + budget_s - monotonic()
        return self._scorer.lookups.queue.refusal(head.target, caller.client, caller.priority, rows, left_s, budget_s)

    def refuse(self, reason: str, request_id: str, keep_alive: bool) -> bytes:
        """Count it; the whole response, as it is sent."""
        self._counts[reason].inc()
        if not ESCAPED.isdisjoint(request_id):
            title, detail = WHY[reason]
            answer = problem.answer(503, title, detail, request_id, retry_after_s=RETRY_S)
            return self._heads.encode(answer, request_id, keep_alive)
        date = self._heads.date()
        if date is not self._date:
            self._date, self._head = date, HEAD + date.decode()
        before, after, fixed = self._known[reason]
        closing = "" if keep_alive else "Connection: close\r\n"
        return (
            f"{self._head}X-Request-ID: {request_id}\r\nContent-Length: {fixed + len(request_id)}\r\n{closing}\r\n"
            f"{before}{request_id}{after}"
        ).encode()


def _split(title: str, detail: str) -> tuple[str, str, int]:
    """What stands before and after the request's id in the body, and the bytes of both."""
    answer: Answer = problem.answer(503, title, detail, PLACE)
    before, _, after = answer.body.decode().partition(PLACE)
    return before, after, len(answer.body) - len(PLACE)
