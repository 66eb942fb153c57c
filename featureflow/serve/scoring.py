"""A score request between what read it from its connection and the scorer: the same for both readers of HTTP."""

from __future__ import annotations

import asyncio
from time import time_ns

from featureflow.serve import problem
from featureflow.serve.answer import Answer, Shed
from featureflow.serve.deadline import Deadline
from featureflow.serve.scorer import Scorer
from featureflow.tracing import Tracer


class Scoring:
    """One request: it has begun when this is made, and ``future`` says when it can be answered.

    ``target``: the model's name, and after an @ a version or alias. Raises what ``Scorer.score`` raises.
    """

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
    ) -> None:
        self._scorer, self._tracer, self.id, self.trace = scorer, tracer, request_id, trace
        self._began_ns = time_ns() if tracer is not None else 0
        self.target = target
        self.model, _, ref = target.partition("@")
        self._deadline: Deadline
        self.future: asyncio.Future[Answer | Shed]
        self._deadline, self.future = scorer.score(
            self.model, ref, body, request_id=request_id, since_s=since_s, trace=trace
        )

    def answer(self) -> Answer:
        """What to send, once the future is done. Raises RequestError for a version that does not exist."""
        answer = self.future.result()
        if isinstance(answer, Answer) and self._deadline.passed():
            answer = Shed("late", "its deadline passed before its answer could be sent")
        if isinstance(answer, Shed):
            self._scorer.metrics.shed.labels(answer.reason).inc()
            answer = problem.answer(
                503,
                "Not answered in time" if "late" in answer.reason else "Not answered",
                answer.detail,
                self.id,
                retry_after_s=answer.retry_after_s,
            )
        if self._tracer is not None:
            attributes: dict[str, str | int] = {"model": self.model, "status": answer.status, "request_id": self.id}
            self._tracer.span("score", self.trace, self._began_ns, time_ns(), attributes)
        return answer
