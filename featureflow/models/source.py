"""Where a model's file comes from: this machine, an https address, or S3. Whatever it is, the bytes are those that were named.

From elsewhere a file is taken by its SHA-256 only, and from anywhere its Ed25519 signature can be asked for as well. Nothing is executed,
nothing unpacked, and no more is read than a model may have.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import ssl
from collections.abc import Iterator
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from time import monotonic
from typing import IO, Any
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from featureflow.errors import ModelError
from featureflow.models import folder
from featureflow.models.onnx_file import MODEL_BYTES

SHA256 = re.compile(r"[0-9a-f]{64}")
SOCKET_S = 30.0                            # between two parts of a file
FETCH_S = 1800.0                           # for the whole of it
PART_BYTES = 1 << 20
SMALL_BYTES = 16 * 1024                    # of a signature, of a key


def fetch(address: str, sha256: str | None = None, *, context: ssl.SSLContext | None = None, endpoint: str | None = None) -> bytes:
    """The file's bytes: of a path, ``https://host/...`` or ``s3://bucket/key``.

    sha256: of the file, in hex; of an address it must be given. context: whom to trust, default the system's authorities.
    endpoint: of an S3 that is not Amazon's.

    Raises ModelError naming the address where it cannot be had, is too large, or is another file.
    """
    if sha256 is not None and not SHA256.fullmatch(sha256 := sha256.lower()):
        raise ModelError(f"{sha256!r} is no SHA-256; give the 64 hexadecimal digits that `sha256sum FILE` prints")
    remote = is_remote(address)
    if remote and sha256 is None:
        raise ModelError(f"{shown(address)} may hold another file tomorrow; say which one is meant: --sha256 HEX")
    content = _joined(_parts(address, context, endpoint), address, MODEL_BYTES) if remote else folder.read(Path(address), limit=MODEL_BYTES)
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and not hmac.compare_digest(found, sha256):
        raise ModelError(f"{shown(address)} is another file than was named: its SHA-256 is {found}, not {sha256}; nothing was added")
    return content


def is_remote(address: str) -> bool:
    """Whether it is an address, not a path."""
    return "://" in address


def shown(address: str) -> str:
    """The address without what may be a secret, for messages: a login, or what stands after ?. A path as it is."""
    if not is_remote(address):
        return address
    scheme, _, rest = address.partition("://")
    host, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def check_signature(content: bytes, signature: str, public_key: Path, *, context: ssl.SSLContext | None = None) -> None:
    """signature: a path or address of 64 bytes, raw or as base64: Ed25519 over the file. public_key: a PEM file.

    Raises ModelError unless this key made it for these bytes.
    """
    try:
        key = load_pem_public_key(folder.read(public_key, limit=SMALL_BYTES))
    except ValueError as error:
        raise ModelError(f"{public_key} is no public key in PEM ({error}); write it with: openssl pkey -pubout") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ModelError(f"{public_key} is a key of another kind; models are signed with Ed25519: openssl genpkey -algorithm ed25519")
    remote = is_remote(signature)
    raw = _joined(_parts(signature, context, None), signature, SMALL_BYTES) if remote else folder.read(Path(signature), limit=SMALL_BYTES)
    if len(raw) != 64:
        try:
            raw = base64.b64decode(raw.strip(), validate=True)
        except (binascii.Error, ValueError):
            raw = b""
    if len(raw) != 64:
        raise ModelError(f"{shown(signature)} is no Ed25519 signature: 64 bytes, raw or as base64")
    try:
        key.verify(raw, content)
    except InvalidSignature:
        raise ModelError(f"{shown(signature)} is not the signature of this file by the key in {public_key}; nothing was added") from None


def _parts(address: str, context: ssl.SSLContext | None, endpoint: str | None) -> Iterator[bytes]:
    scheme = urlsplit(address).scheme
    if scheme == "https":
        return _https(address, context)
    if scheme == "s3":
        return _s3(address, endpoint)
    raise ModelError(f"{shown(address)} is of a kind that is not read; give a path, https://host/file or s3://bucket/key")


def _joined(parts: Iterator[bytes], address: str, most: int) -> bytes:
    kept, size, until = [], 0, monotonic() + FETCH_S
    for part in parts:
        kept.append(part)
        size += len(part)
        if size > most:
            raise ModelError(f"{shown(address)} has more than {most:,} bytes; that is more than it may have")
        if monotonic() > until:
            raise ModelError(f"{shown(address)} has not come whole within {FETCH_S:.0f} s; fetch it by other means and give the file")
    return b"".join(kept)


class _OnlyToHttps(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if urlsplit(newurl).scheme != "https":
            raise ModelError(f"{shown(req.full_url)} leads to {shown(newurl)}, which is not https; name an address that stays there")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _https(address: str, context: ssl.SSLContext | None) -> Iterator[bytes]:
    if "@" in urlsplit(address).netloc:
        raise ModelError(f"{shown(address)} has a login in it, which is not sent; fetch it by other means and give the file")
    opener = OpenerDirector()              # of these parts alone: no file:, no ftp:, no http:
    for handler in _handlers(context):
        opener.add_handler(handler)
    try:
        with opener.open(Request(address, headers={"User-Agent": "featureflow"}), timeout=SOCKET_S) as answer:
            length = answer.headers.get("Content-Length")
            got = 0
            while part := answer.read(PART_BYTES):
                got += len(part)
                yield part
            if length is not None and got != int(length):
                raise ModelError(f"{shown(address)} broke off after {got:,} of {length} bytes; try again")
    except (OSError, HTTPException, ValueError) as error:      # an HTTP status is an OSError too
        raise ModelError(f"{shown(address)} cannot be fetched: {_why(error)}") from error


def _why(error: Exception) -> str:
    """Without what urllib wraps it in."""
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"{reason}; an authority of your own: SSL_CERT_FILE=CA.pem"
    return str(error if isinstance(reason, str) else reason)


def _handlers(context: ssl.SSLContext | None) -> list[Any]:
    from urllib.request import HTTPDefaultErrorHandler, HTTPErrorProcessor

    https = HTTPSHandler(context=context or ssl.create_default_context())
    return [ProxyHandler(), https, _OnlyToHttps(), HTTPErrorProcessor(), HTTPDefaultErrorHandler()]


def _s3(address: str, endpoint: str | None) -> Iterator[bytes]:
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ModuleNotFoundError as error:
        raise ModelError(f'{shown(address)} needs the S3 client. Run: pip install "featureflow[s3]"') from error
    place = urlsplit(address)
    bucket, key = place.netloc, unquote(place.path.lstrip("/"))
    if not bucket or not key:
        raise ModelError(f"{shown(address)} names no file; write s3://bucket/key")
    try:
        client = boto3.client("s3", endpoint_url=endpoint, config=Config(connect_timeout=SOCKET_S, read_timeout=SOCKET_S))
        yield from client.get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(PART_BYTES)
    except (BotoCoreError, ClientError, OSError) as error:
        raise ModelError(f"{shown(address)} cannot be fetched: {error}") from error
