"""What goes back to the caller: a status, bytes that are ready to be sent, and their type."""

from __future__ import annotations

from msgspec import Struct

JSON = "application/json"


class Answer(Struct, frozen=True):
    """``headers`` beside those that every answer has."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


class Shed(Struct, frozen=True):
    """A request that was not answered, because answering it in time was not possible. Becomes 503 with Retry-After.

    ``reason`` is one of ``queue_full predicted_late lag displaced late missing loading model failed``; each is counted by it.
    """

    reason: str
    detail: str
    retry_after_s: int = 1


Reply = Answer | Shed
