"""kafka-python's errors as ours."""

from __future__ import annotations

import kafka.errors

from featureflow.errors import LogError, UnavailableError, UnknownOutcomeError

AWAY = (kafka.errors.UnknownBrokerIdError, kafka.errors.BrokerNotAvailableError)   # no leader or controller, for as long as one restarts


def translated(error: Exception, what: str, *, writing: bool = False) -> Exception:
    """The error to raise instead: is the server away, or does it refuse?"""
    detail = f"{type(error).__name__}: {error}"
    if isinstance(error, kafka.errors.UnknownTopicOrPartitionError):
        return LogError(f"{what}: no such topic; create it, or let 'featureflow apply' do so ({detail})")
    if isinstance(error, kafka.errors.FencedInstanceIdError):
        return LogError(
            f"{what}: another process joined with the same name. Give each process a name of its own in ingest.member (or "
            f"history_writer.member), or none, and start this one again ({detail})"
        )
    if isinstance(error, kafka.errors.KafkaTimeoutError) and writing:
        return UnknownOutcomeError(f"{what}: no acknowledgement in time, it may or may not be there ({detail}); log.url points to it")
    if isinstance(error, kafka.errors.KafkaError) and (error.retriable or isinstance(error, AWAY)):
        return UnavailableError(f"{what} ({detail}); log.url points to it")
    return LogError(f"{what} ({detail})")
