"""The log that a URL names."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote, urlsplit

from featureflow.errors import SettingsError
from featureflow.store.log.kafka import KafkaLog
from featureflow.store.log.kafka_options import converted
from featureflow.store.log.protocol import Log
from featureflow.store.log.redis_streams import RedisStreamsLog
from featureflow.store.online import tls

REDIS_SCHEMES = ("redis", "rediss", "unix")
EXAMPLE = "write kafka://host:9092,host:9092, or redis://host:6379/0, or unix:///path, or embedded"


def open_log(url: str) -> Log:
    """A log for ``log.url``. Nothing is connected to before its first use.

    ``kafka://[user:password@]host:port[,host:port][?security_protocol=SASL_SSL&sasl_mechanism=PLAIN&ssl_cafile=...]``:
    what follows the question mark is kafka-python's own options (see ``kafka_options``). ``redis://``, ``rediss://`` and ``unix://``
    are Redis Streams, with the options that ``online.url`` has.
    Raises SettingsError for any other URL, and for an option that there is not or that cannot have that value.
    """
    scheme = url.partition("://")[0]
    if scheme == "kafka":
        return _kafka(url)
    if scheme in REDIS_SCHEMES:
        return _redis(url)
    raise SettingsError(f"log.url: {scheme!r} is no log; {EXAMPLE}")


def _kafka(url: str) -> KafkaLog:
    parts = urlsplit(url)
    account, _, servers = parts.netloc.rpartition("@")
    if not all(_is_server(server) for server in servers.split(",")):
        shown = "it" if "@" in url else repr(servers)  # a password that is not encoded is cut anywhere, and part of it would stand here
        raise SettingsError(f"log.url: {shown} is no list of Kafka servers with ports; {EXAMPLE}")
    options = converted(parse_qsl(parts.query, keep_blank_values=True))
    if account:
        user, _, password = account.partition(":")
        options = {
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "PLAIN",
            "sasl_plain_username": unquote(user),
            "sasl_plain_password": unquote(password),
            **options,
        }
    return KafkaLog(servers, **options)


def _is_server(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and re.fullmatch(r"[0-9]{1,5}", port) is not None and 0 < int(port) < 65_536


def _redis(url: str) -> RedisStreamsLog:
    try:
        options = tls.options(url)
        if url.startswith("rediss:"):
            tls.context(options)
    except ValueError as problem:
        raise SettingsError(f"log.url is not a Redis URL: {problem}; {EXAMPLE}") from None
    return RedisStreamsLog(url)
