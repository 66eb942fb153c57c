"""Options of kafka-python in ``log.url``: those that consumer, producer and administrator all have, in the types that they want."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from featureflow.errors import SettingsError

OURS = {"session_ms": 0}                   # after which a member is taken for dead; 0 stands for a whole number
NOT_TEXT = (                               # objects, and what is said elsewhere in the URL
    "bootstrap_servers", "ssl_context", "api_version", "sasl_oauth_token_provider", "selector", "kafka_client", "socket_options",
    "metric_reporters",
)  # fmt: skip
NUMBERS = ("receive_buffer_bytes", "send_buffer_bytes")                    # whose default is None: the system's own
WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
CHOICES = {"security_protocol": ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")}
Kind = Literal["number", "switch", "text"]


def _kind(name: str, default: object) -> Kind:
    if isinstance(default, bool):
        return "switch"
    return "number" if isinstance(default, int) or name in NUMBERS else "text"


def _known() -> dict[str, Kind]:
    shared = KafkaConsumer.DEFAULT_CONFIG.keys() & KafkaProducer.DEFAULT_CONFIG.keys() & KafkaAdminClient.DEFAULT_CONFIG.keys()
    defaults = {name: KafkaAdminClient.DEFAULT_CONFIG[name] for name in sorted(shared - set(NOT_TEXT))} | OURS
    return {name: _kind(name, default) for name, default in defaults.items()}


KNOWN: Final = _known()


def converted(given: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Raises SettingsError for an option that there is not, one that is given twice, and a value that it cannot have."""
    found: dict[str, Any] = {}
    for name, text in given:
        if name not in KNOWN:
            raise SettingsError(f"log.url: {name!r} is no option of all of kafka-python's clients. There are {', '.join(KNOWN)}")
        if name in found:
            raise SettingsError(f"log.url: {name} is given twice")
        found[name] = _value(name, text)
    return found


def _value(name: str, text: str) -> Any:
    kind = KNOWN[name]
    if kind == "number":
        if not (text.isascii() and text.isdigit() and int(text)):
            raise SettingsError(f"log.url: {name}={text} is no whole number above 0")
        return int(text)
    if kind == "switch":
        if text.lower() not in WORDS:
            raise SettingsError(f"log.url: {name}={text} is neither true nor false")
        return WORDS[text.lower()]
    if not text:
        raise SettingsError(f"log.url: {name}= is empty: leave it out")
    if text not in CHOICES.get(name, (text,)):
        raise SettingsError(f"log.url: {name}={text} is none of {', '.join(CHOICES[name])}")
    return text
