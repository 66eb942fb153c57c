"""What a caller is told when a request ends in an exception."""

from __future__ import annotations

import structlog

from featureflow.errors import BodiesFullError, BodiesShareError, FeatureFlowError, RequestError
from featureflow.serve import problem
from featureflow.serve.answer import Answer
from featureflow.serve.metrics import Metrics

SHED: dict[type[FeatureFlowError], str] = {BodiesFullError: "bodies", BodiesShareError: "bodies_share"}
log = structlog.get_logger("featureflow.serve")


def answer(error: Exception, request_id: str, metrics: Metrics, *, method: str, path: str) -> Answer:
    """Problem details: 4xx for what the caller can change, 503 for what is not there now, 500 for a fault, which is logged."""
    if isinstance(error, RequestError):
        if error.status == 408:
            metrics.too_slow.labels("body").inc()
        return problem.of(error, request_id)
    if isinstance(error, FeatureFlowError):
        metrics.shed.labels(SHED.get(type(error), "unavailable")).inc()
        return problem.answer(503, "Not available", str(error), request_id, retry_after_s=1)
    log.error("request_failed", request_id=request_id, method=method, path=path, exc_info=error)
    return problem.answer(
        500, "Internal error", "this is a fault of the server; its log has the request id", request_id
    )
