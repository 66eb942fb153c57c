"""What is said where a topic is not the one any more that was read, and what to do about it."""

from __future__ import annotations

ANEW = "Give the event a new name, and a topic with a new name"


def created_again(topic: str, topic_id: str, was: str) -> str:
    """``topic``: as the sentence is to call it; ``topic_id``: of the topic that the log has; ``was``: of the one that was read."""
    return f"{topic} was deleted and created again (id {topic_id}, was {was}): its offsets name other events now. {ANEW}"


def truncated(place: str, end: int, reader: str, offset: int) -> str:
    """``place``: topic and partition, which ends at ``end``; ``reader``: who has it up to ``offset``, which is beyond, as in
    ``view now@1 has folded it``."""
    return f"{place} ends at {end}, but {reader} up to {offset}: the topic was truncated, and its offsets will name other events. {ANEW}"
