"""What follows the question mark of ``log.url``: kafka-python's options, in kafka-python's types."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kafka
import pytest

from featureflow.errors import SettingsError
from featureflow.store.log.kafka import KafkaLog
from featureflow.store.log.kafka_options import KNOWN
from featureflow.store.log.open import open_log

OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"


def given(query: str) -> dict[str, Any]:
    log = open_log(f"kafka://me:p%40ss@h:9092?{query}")
    assert isinstance(log, KafkaLog)
    return {**log._options, "session_ms": log._session_ms}


def test_options_have_the_types_that_kafka_python_gives_their_defaults() -> None:
    found = given(
        "request_timeout_ms=30000&session_ms=9000&ssl_check_hostname=false&send_buffer_bytes=65536&ssl_cafile=%2Fa%20b%2Fca.pem"
        "&sasl_mechanism=SCRAM-SHA-512&reconnect_backoff_max_ms=5"
    )
    wanted = {
        "request_timeout_ms": 30_000, "session_ms": 9_000, "ssl_check_hostname": False, "send_buffer_bytes": 65_536,
        "ssl_cafile": "/a b/ca.pem", "sasl_mechanism": "SCRAM-SHA-512", "reconnect_backoff_max_ms": 5,
        "security_protocol": "SASL_SSL", "sasl_plain_password": "p@ss",
    }  # fmt: skip
    assert {name: found[name] for name in wanted} == wanted
    for name in KNOWN.keys() - {"session_ms"}:
        for client in (kafka.KafkaConsumer, kafka.KafkaProducer, kafka.KafkaAdminClient):
            assert name in client.DEFAULT_CONFIG


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("session_ms=abc", "session_ms=abc is no whole number above 0"),
        ("session_ms=0", "session_ms=0 is no whole number above 0"),
        ("request_timeout_ms=1.5", "request_timeout_ms=1.5 is no whole number above 0"),
        ("request_timeout_ms=-5", "request_timeout_ms=-5 is no whole number above 0"),
        ("ssl_check_hostname=maybe", "ssl_check_hostname=maybe is neither true nor false"),
        ("security_protocol=TLS", "security_protocol=TLS is none of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"),
        ("ssl_cafile=", "ssl_cafile= is empty"),
        ("ssl_cafile=a&ssl_cafile=b", "ssl_cafile is given twice"),
        ("acks=0", "'acks' is no option of all of kafka-python's clients. There are "),
        ("ssl_context=x", "'ssl_context' is no option"),
        ("bootstrap_servers=x:1", "'bootstrap_servers' is no option"),
    ],
)
def test_an_option_that_cannot_be_is_named_with_what_can(query: str, said: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(f"log.url: {said}")) as told:
        given(f"ssl_password=hidden&sasl_plain_password=hidden2&{query}")
    assert "hidden" not in str(told.value)
    assert "p@ss" not in str(told.value)


def test_the_options_that_the_documents_name_are_taken() -> None:
    section = OPERATIONS.read_text("utf-8").partition("### Options of Kafka")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([a-z]+_[a-z_]+)`", section))
    assert len(named) > 15
    assert named <= KNOWN.keys()
