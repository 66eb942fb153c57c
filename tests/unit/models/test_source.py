"""A model's file is the one that was named, wherever it comes from: real TLS, and S3's own client, over loopback."""

from __future__ import annotations

import base64
import datetime
import hashlib
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from featureflow.errors import ModelError
from featureflow.models import source
from featureflow.models.source import check_signature, fetch

CONTENT = b"a model" * 300_000


@dataclass
class Server:
    """``files``: path -> body. ``moved``: path -> where it is. ``short``: paths whose answer breaks off."""

    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    short: set[str] = field(default_factory=set)
    context: ssl.SSLContext | None = None

    def url(self, path: str) -> str:
        return f"{'https' if self.context else 'http'}://127.0.0.1:{self.port}{path}"


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path in server.moved:
                self.send_response(302)
                self.send_header("Location", server.moved[self.path])
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = server.files.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            if body is not None:
                self.wfile.write(body[: len(body) // 2] if self.path in server.short else body)

        def log_message(self, *words: object) -> None:
            pass

    return Handler


def _certificate(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "here")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    file = folder / "both.pem"
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return file


def _serving(server: Server, context: ssl.SSLContext | None) -> Iterator[Server]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(server)) as listening:
        if context is not None:
            listening.socket = context.wrap_socket(listening.socket, server_side=True)
        server.port = listening.server_address[1]
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        listening.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def https(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    file = _certificate(tmp_path_factory.mktemp("certificate"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    yield from _serving(Server(files={"/fraud.onnx": CONTENT}, context=ssl.create_default_context(cafile=file)), context)


@pytest.fixture(scope="module")
def plain() -> Iterator[Server]:
    yield from _serving(Server(files={"/bucket/models/fraud%201.onnx": CONTENT}), None)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_file_is_taken_from_a_path_with_and_without_its_sha256(tmp_path: Path) -> None:
    (path := tmp_path / "fraud.onnx").write_bytes(CONTENT)
    assert fetch(str(path)) == fetch(str(path), sha256(CONTENT).upper()) == CONTENT
    with pytest.raises(ModelError, match="is another file than was named"):
        fetch(str(path), sha256(b"other"))


def test_a_file_is_taken_from_an_https_address_by_its_sha256(https: Server) -> None:
    assert fetch(https.url("/fraud.onnx"), sha256(CONTENT), context=https.context) == CONTENT


def test_a_file_that_was_swapped_behind_its_address_is_refused(https: Server) -> None:
    https.files["/swapped.onnx"] = CONTENT[:-1] + b"?"
    with pytest.raises(ModelError, match="another file than was named: its SHA-256 is [0-9a-f]{64}, not [0-9a-f]{64}; nothing was"):
        fetch(https.url("/swapped.onnx"), sha256(CONTENT), context=https.context)


def test_an_address_without_a_sha256_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(ModelError, match="--sha256 HEX"):
        fetch("https://127.0.0.1:1/fraud.onnx")


@pytest.mark.parametrize("text", ["abc", "g" * 64, "a" * 65])
def test_what_is_no_sha256_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match="is no SHA-256"):
        fetch("fraud.onnx", text)


def test_a_server_that_nobody_vouches_for_is_refused(https: Server) -> None:
    with pytest.raises(ModelError, match=r"CERTIFICATE_VERIFY_FAILED.*\); an authority of your own: SSL_CERT_FILE=CA.pem"):
        fetch(https.url("/fraud.onnx"), sha256(CONTENT))


def test_an_address_that_leads_away_from_https_is_refused(https: Server, plain: Server) -> None:
    https.moved["/on"] = https.url("/fraud.onnx")
    https.moved["/away"] = plain.url("/bucket/models/fraud%201.onnx")
    https.moved["/file"] = "file:///etc/passwd"
    assert fetch(https.url("/on"), sha256(CONTENT), context=https.context) == CONTENT
    for path in ("/away", "/file"):
        with pytest.raises(ModelError, match="which is not https|is not allowed"):
            fetch(https.url(path), sha256(CONTENT), context=https.context)


def test_of_an_address_no_message_shows_what_may_be_a_secret(https: Server, tmp_path: Path) -> None:
    """A login, which is not sent; or the signature of an address that is signed."""
    https.moved["/away"] = "http://me:s3cret@127.0.0.1/x?signature=s3cret"
    https.moved["/gone"] = https.url("/absent?signature=s3cret")
    signed = [https.url(f"{path}?signature=s3cret") for path in ("/fraud.onnx", "/absent", "/away", "/gone")]
    for address in (*signed, "https://me:s3cret@127.0.0.1/a.onnx", "https://me:s3cret@127.0.0.1:1/a.onnx", "ftp://me:s3cret@h/x?s3cret"):
        for given in (None, sha256(b"other")):
            with pytest.raises(ModelError, match=r"(https|ftp)://(127\.0\.0\.1|localhost|h)[:/]") as caught:
                fetch(address, given, context=https.context)
            assert "s3cret" not in str(caught.value)
    with pytest.raises(ModelError, match="a login in it, which is not sent"):
        fetch("https://me:s3cret@127.0.0.1/a.onnx", sha256(CONTENT))


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/a.onnx", "ftp://127.0.0.1:1/a.onnx", "file:///etc/passwd"])
def test_other_kinds_of_address_are_refused(address: str) -> None:
    with pytest.raises(ModelError, match="of a kind that is not read"):
        fetch(address, sha256(CONTENT))


def test_a_file_that_breaks_off_is_not_there_or_is_too_large_is_refused(https: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    https.files["/half.onnx"] = CONTENT
    https.short.add("/half.onnx")
    for path, problem in (("/half.onnx", "broke off|IncompleteRead|cannot be fetched"), ("/absent", "404")):
        with pytest.raises(ModelError, match=problem):
            fetch(https.url(path), sha256(CONTENT), context=https.context)
    monkeypatch.setattr(source, "MODEL_BYTES", len(CONTENT) - 1)
    with pytest.raises(ModelError, match="has more than"):
        fetch(https.url("/fraud.onnx"), sha256(CONTENT), context=https.context)


def test_a_file_is_taken_from_s3_by_its_sha256(plain: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("AWS_ACCESS_KEY_ID", "me"), ("AWS_SECRET_ACCESS_KEY", "hidden"), ("AWS_DEFAULT_REGION", "eu-central-1")):
        monkeypatch.setenv(name, value)
    at = plain.url("")
    assert fetch("s3://bucket/models/fraud%201.onnx", sha256(CONTENT), endpoint=at) == CONTENT
    with pytest.raises(ModelError, match="another file than was named"):
        fetch("s3://bucket/models/fraud%201.onnx", sha256(b"other"), endpoint=at)
    with pytest.raises(ModelError, match="cannot be fetched"):
        fetch("s3://bucket/absent", sha256(CONTENT), endpoint=at)
    with pytest.raises(ModelError, match="names no file"):
        fetch("s3://bucket", sha256(CONTENT), endpoint=at)


# -- signatures --------------------------------------------------------------------------------------------------------

@pytest.fixture
def signed(tmp_path: Path) -> tuple[Path, Path]:
    """A signature of ``CONTENT``, and the public key of who made it."""
    key = Ed25519PrivateKey.generate()
    (signature := tmp_path / "fraud.sig").write_bytes(key.sign(CONTENT))
    (public := tmp_path / "key.pem").write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return signature, public


def test_a_signature_by_the_key_is_accepted_raw_and_as_base64(signed: tuple[Path, Path]) -> None:
    signature, public = signed
    check_signature(CONTENT, str(signature), public)
    signature.write_bytes(base64.b64encode(signature.read_bytes()) + b"\n")
    check_signature(CONTENT, str(signature), public)


def test_a_signature_of_another_file_or_by_another_key_is_refused(signed: tuple[Path, Path], tmp_path: Path) -> None:
    signature, public = signed
    with pytest.raises(ModelError, match="is not the signature of this file"):
        check_signature(CONTENT[:-1], str(signature), public)
    signature.write_bytes(Ed25519PrivateKey.generate().sign(CONTENT))
    with pytest.raises(ModelError, match="is not the signature of this file"):
        check_signature(CONTENT, str(signature), public)


def test_what_is_no_signature_or_no_such_key_is_refused(signed: tuple[Path, Path], tmp_path: Path) -> None:
    signature, public = signed
    for content in (b"", b"x" * 63, b"not base64 at all!"):
        (other := tmp_path / "other.sig").write_bytes(content)
        with pytest.raises(ModelError, match="is no Ed25519 signature"):
            check_signature(CONTENT, str(other), public)
    with pytest.raises(ModelError, match="is no public key in PEM"):
        check_signature(CONTENT, str(signature), signature)
    curve = ec.generate_private_key(ec.SECP256R1()).public_key()
    (of_another_kind := tmp_path / "ec.pem").write_bytes(
        curve.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(ModelError, match="a key of another kind"):
        check_signature(CONTENT, str(signature), of_another_kind)
