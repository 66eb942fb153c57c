"""Problem details for HTTP (RFC 9457): what is wrong with a request and what to change."""

from __future__ import annotations

import msgspec

from featureflow import limits
from featureflow.errors import RequestError
from featureflow.kernel.nesting import is_too_deep
from featureflow.serve.answer import Answer
from featureflow.serve.priority import NAMES as PRIORITIES
from featureflow.serve.wire.v1 import Problem

CONTENT_TYPE = "application/problem+json"


def of(error: RequestError, request_id: str = "") -> Answer:
    """The answer to a request that cannot be answered as it stands."""
    return answer(error.status, error.title, error.detail, request_id)


def answer(
    status: int, title: str, detail: str, request_id: str = "", *, retry_after_s: int = 0, allow: str = ""
) -> Answer:
    body = msgspec.json.encode(Problem(title=title, status=status, detail=detail, request_id=request_id))
    headers = (("Retry-After", str(retry_after_s)),) if retry_after_s else (("Allow", allow),) if allow else ()
    return Answer(status, body, CONTENT_TYPE, headers)


def undecodable(error: ValueError | RecursionError, body: bytes) -> RequestError:
    """A body that is not JSON or nested too deeply (400), or is JSON of another shape (422, with the path of the wrong place).

    A typed decoder goes no deeper than its type, and stops at what is not of it: how deep a body is has to be asked only here.
    """
    if isinstance(error, RecursionError) or is_too_deep(body):
        return too_deep()
    if isinstance(error, msgspec.ValidationError):
        meant = f": one of {', '.join(PRIORITIES)}" if str(error).endswith("`$.priority`") else ""
        return RequestError("Body has the wrong shape", f"{error}{meant}. /openapi.json describes the body", status=422)
    return RequestError("Body is not JSON", f"{error}; send UTF-8 JSON as /openapi.json describes it")


def too_deep() -> RequestError:
    """A body beyond ``limits.JSON_DEPTH`` (400)."""
    return RequestError(
        "Body is nested too deeply", f"lists and objects may be {limits.JSON_DEPTH} levels deep; send what /openapi.json describes"
    )
