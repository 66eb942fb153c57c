"""What ``online.url`` says, for the worker's client and the scorer's alike, and ``log.url`` of Redis Streams: redis-py would take options
that send a write twice or change what it answers, and the scorer's own connection knows none of them.
"""

from __future__ import annotations

import ssl
from typing import Any

from redis.connection import parse_url

TLS = (
    "ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_cert_reqs", "ssl_check_hostname", "ssl_certfile", "ssl_keyfile", "ssl_password"
)  # fmt: skip
SERVER = ("host", "port", "path", "db", "username", "password")
WANTED = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}     # ssl_cert_reqs


def options(url: str) -> dict[str, Any]:
    """As redis-py reads it: host, port, path, db, username, password, and ``ssl_...`` where it is ``rediss://``.

    Raises ValueError for what is no URL of Redis, and for an option that there is not.
    """
    found: dict[str, Any] = dict(parse_url(url))  # type: ignore[no-untyped-call]  # untyped in redis-py
    found.pop("connection_class", None)
    if url.startswith("unix:") and not found.get("path"):
        raise ValueError("a path is missing")
    for name in found:
        if name in TLS and not url.startswith("rediss:"):
            raise ValueError(f"{name} is of TLS, which rediss:// has")
        if name not in TLS and name not in SERVER:
            raise ValueError(f"there is no option {name!r}; there are {', '.join((*TLS, 'db', 'username', 'password'))}")
    if (wanted := found.get("ssl_cert_reqs", "required")) not in WANTED:
        raise ValueError(f"ssl_cert_reqs={wanted} is none of {', '.join(WANTED)}")
    return found


def context(options: dict[str, Any]) -> ssl.SSLContext:
    """As redis-py makes it of the same options. Raises ValueError naming those that cannot be used."""
    made = ssl.create_default_context()
    wanted = WANTED[options.get("ssl_cert_reqs", "required")]
    made.check_hostname = wanted != ssl.CERT_NONE and bool(options.get("ssl_check_hostname", True))
    made.verify_mode = wanted
    authorities = [options.get(name) for name in ("ssl_ca_certs", "ssl_ca_path", "ssl_ca_data")]
    try:
        if any(authorities):
            made.load_verify_locations(*authorities)
    except OSError as problem:
        raise ValueError(f"the authorities of {_named(options, 'ssl_ca_certs', 'ssl_ca_path')} cannot be read: {problem}") from None
    try:
        if options.get("ssl_certfile") or options.get("ssl_keyfile"):
            made.load_cert_chain(options.get("ssl_certfile", ""), options.get("ssl_keyfile"), options.get("ssl_password", ""))
    except OSError as problem:
        raise ValueError(f"the certificate of {_named(options, 'ssl_certfile', 'ssl_keyfile')} cannot be used: {problem}") from None
    return made


def _named(options: dict[str, Any], *names: str) -> str:
    return " and ".join(f"{name}={options[name]}" for name in names if name in options) or "ssl_ca_data"
