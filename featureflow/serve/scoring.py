"""A score request between what read it from its connection and the scorer: the same for both readers of HTTP."""

from __future__ import annotations

from time import time_ns
from typing import ClassVar

from featureflow.pending import Pending
from featureflow.serve import problem
from featureflow.serve.answer import Answer, Reply, Shed
from featureflow.serve.deadline import Deadline
from featureflow.serve.metrics import Metrics
from featureflow.serve.priority import NOBODY, Caller
from featureflow.serve.scorer import Scorer
from featureflow.tracing import Tracer


class Scoring:
    """One request: it has begun when this is made, and ``future`` says when it can be answered.

    ``target``: the model's name, and after an @ a version or alias. Raises what ``Scorer.score`` raises.
    """

    route: ClassVar = "score"
    __slots__ = ("_began_ns", "_deadline", "_scorer", "_tracer", "future", "id", "model", "target", "trace")

    def __init__(
        self,
        scorer: Scorer,
        tracer: Tracer | None,
        target: str,
        body: bytes,
        *,
        request_id: str,
        since_s: float,
        trace: str,
        caller: Caller = NOBODY,
    ) -> None:
        self._scorer, self._tracer, self.id, self.trace = scorer, tracer, request_id, trace
        self._began_ns = time_ns() if tracer is not None else 0
        self.target = target
        self.model, _, ref = target.partition("@")
        self._deadline: Deadline
        self.future: Pending[Reply]
        self._deadline, self.future = scorer.score(
            self.model, ref, body, request_id=request_id, since_s=since_s, trace=trace, caller=caller
        )

    def answer(self) -> Answer:
        """What to send, once the future is done. Raises RequestError for a version that does not exist."""
        answer = answered(self._scorer.metrics, self.future.result(), self._deadline, self.id)
        if self._tracer is not None:
            attributes: dict[str, str | int] = {"model": self.model, "status": answer.status, "request_id": self.id}
            self._tracer.span("score", self.trace, self._began_ns, time_ns(), attributes)
        return answer


def answered(metrics: Metrics, answer: Answer | Shed, deadline: Deadline, request_id: str) -> Answer:
    """What to send: the answer if it is still of use, otherwise 503, which is counted."""
    if isinstance(answer, Answer):
        if not deadline.passed():
            return answer
        answer = Shed("late", "its deadline passed before its answer could be sent")
    metrics.shed.labels(answer.reason).inc()
    title = "Not answered in time" if "late" in answer.reason else "Not answered"
    return problem.answer(503, title, answer.detail, request_id, retry_after_s=answer.retry_after_s)
