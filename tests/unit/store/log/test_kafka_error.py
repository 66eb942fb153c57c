"""Every error of kafka-python becomes one of ours, and those of a broker that restarts are waited out."""

from __future__ import annotations

import kafka.errors
import pytest

from featureflow.errors import LogError, UnavailableError, UnknownOutcomeError
from featureflow.store.log.kafka_error import translated

ALL = sorted(
    {kind for kind in vars(kafka.errors).values() if isinstance(kind, type) and issubclass(kind, kafka.errors.KafkaError)},
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("kind", ALL, ids=[kind.__name__ for kind in ALL])
@pytest.mark.parametrize("writing", [True, False])
def test_whatever_kafka_says_is_an_error_of_ours(kind: type[Exception], writing: bool) -> None:
    assert isinstance(translated(kind("so"), "it cannot", writing=writing), LogError | UnavailableError | UnknownOutcomeError)


def test_two_processes_of_one_name_are_said_with_the_setting() -> None:
    said = str(translated(kafka.errors.FencedInstanceIdError("w1"), "it cannot"))
    assert "another process joined with the same name" in said
    assert "ingest.member" in said
    assert "history_writer.member" in said


@pytest.mark.parametrize("name", ["NodeNotReadyError", "KafkaConnectionError", "UnknownBrokerIdError", "BrokerNotAvailableError"])
def test_what_a_broker_says_that_restarts_is_waited_out(name: str) -> None:
    """UnknownBrokerIdError: -1 is a partition without a leader, or a cluster without a controller, for a moment."""
    assert isinstance(translated(getattr(kafka.errors, name)("-1"), "it cannot"), UnavailableError)
