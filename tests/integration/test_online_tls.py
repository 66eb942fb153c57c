"""TLS to the online store: whoever reads ``online.url``, worker or scorer, trusts and shows the same certificates."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import socket
import ssl
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from ports import free_port
from redis_cluster import until

from featureflow.errors import UnavailableError
from featureflow.pending import EagerTask
from featureflow.store.online.embedded import server_binary
from featureflow.store.online.open import open_online, open_reader

PATIENCE_S = 30.0
PASSWORD = "hidden"


@dataclass(frozen=True)
class Certificates:
    """Files of an authority, and of a server and a client that it vouches for; ``named`` is of a server of another name."""

    folder: Path

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.pem"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    made = Certificates(tmp_path_factory.mktemp("certificates"))
    authority = ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a private authority")])
    now = datetime.datetime.now(datetime.UTC)

    def certificate(name: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool, names: Sequence[x509.GeneralName]) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name).issuer_name(authority_name).public_key(key.public_key()).serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )  # fmt: skip
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def key_bytes(key: ec.EllipticCurvePrivateKey, password: str = "") -> bytes:
        locked = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
        return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)

    made.file("ca").write_bytes(certificate(authority_name, authority, ca=True, names=[]))
    here, elsewhere = x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("elsewhere.test")
    wanted: list[tuple[str, list[x509.GeneralName], str]] = [("server", [here], ""), ("other", [elsewhere], ""), ("client", [], PASSWORD)]
    for name, names, password in wanted:
        key = ec.generate_private_key(ec.SECP256R1())
        of = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made.file(name).write_bytes(certificate(of, key, ca=False, names=names))
        made.file(f"{name}-key").write_bytes(key_bytes(key, password))
    return made


@contextmanager
def tls_in_front(port: int, certificates: Certificates, name: str = "server", *, mutual: bool = False, at: int = 0) -> Iterator[int]:
    """A port where whoever speaks TLS is passed on to the server at ``port``, as by a server that is built with TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.file(name), certificates.file(f"{name}-key"))
    if mutual:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates.file("ca"))

    async def passed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)

        async def pump(one: asyncio.StreamReader, other: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                while data := await one.read(65_536):
                    other.write(data)
                    await other.drain()
            writer.transport.abort()
            server_writer.transport.abort()

        await asyncio.gather(pump(reader, server_writer), pump(server_reader, writer))

    async def listen(ready: Future[tuple[int, Callable[[], object]]]) -> None:
        ended, loop = asyncio.Event(), asyncio.get_running_loop()
        server = await asyncio.start_server(passed_on, "127.0.0.1", at, ssl=context)
        ready.set_result((server.sockets[0].getsockname()[1], lambda: loop.call_soon_threadsafe(ended.set)))
        await ended.wait()
        server.close()
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))    # whoever was passed on has hung up by now

    ready: Future[tuple[int, Callable[[], object]]] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(listen(ready)))
    thread.start()
    listening, end = ready.result(PATIENCE_S)
    try:
        yield listening
    finally:
        end()
        thread.join(PATIENCE_S)


@pytest.fixture(scope="module")
def plain_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = free_port()
    with server(tmp_path_factory.mktemp("server"), port):
        yield port


@contextmanager
def server(folder: Path, port: int, *options: str) -> Iterator[None]:
    command = [str(server_binary()), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", "", *options]
    process = subprocess.Popen([*command, "--logfile", str(folder / "server.log")], stdin=subprocess.DEVNULL)
    try:
        until(lambda: answers(port), "the server answers")
        yield
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return True
    return False


def worker_and_scorer(url: str) -> list[str | None]:
    """What keeps the worker's client and the scorer's from being answered; None: nothing."""

    async def scorer() -> None:
        reader = open_reader(url)
        try:
            await reader.start()
            await reader.ping()
        finally:
            await reader.close()

    def worker() -> None:
        with closing(open_online(url)) as store:
            store.ping()

    found: list[str | None] = []
    for one in (worker, lambda: asyncio.run(scorer())):
        try:
            one()
            found.append(None)
        except UnavailableError as error:
            found.append(str(error))
    return found


def assert_refused(url: str, why: str) -> None:
    for said in worker_and_scorer(url):
        assert said is not None
        assert why in said
        assert "online.url" in said
        assert PASSWORD not in said


def test_both_trust_an_authority_that_the_url_names_and_no_other(plain_port: int, certificates: Certificates) -> None:
    with tls_in_front(plain_port, certificates) as port:
        url = f"rediss://127.0.0.1:{port}/0"
        assert worker_and_scorer(f"{url}?ssl_ca_certs={certificates.file('ca')}") == [None, None]
        assert_refused(url, "certificate verify failed")
        assert_refused(f"{url}?ssl_ca_certs={certificates.file('other')}", "certificate verify failed")
        assert worker_and_scorer(f"{url}?ssl_cert_reqs=none") == [None, None]


def test_both_look_at_the_name_in_a_certificate_unless_told(plain_port: int, certificates: Certificates) -> None:
    with tls_in_front(plain_port, certificates, "other") as port:
        url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificates.file('ca')}"
        assert_refused(url, "certificate verify failed")
        assert worker_and_scorer(f"{url}&ssl_check_hostname=false") == [None, None]


def test_both_show_the_certificate_that_the_url_names(plain_port: int, certificates: Certificates) -> None:
    with tls_in_front(plain_port, certificates, mutual=True) as port:
        url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificates.file('ca')}"
        shown = f"{url}&ssl_certfile={certificates.file('client')}&ssl_keyfile={certificates.file('client-key')}"
        assert worker_and_scorer(f"{shown}&ssl_password={PASSWORD}") == [None, None]
        assert None not in worker_and_scorer(url)


def test_both_find_the_nodes_of_a_cluster_behind_tls(tmp_path: Path, certificates: Certificates) -> None:
    plain, outside, bus = free_port(), free_port(), free_port()
    cluster = ("--cluster-enabled", "yes", "--cluster-port", str(bus), "--cluster-announce-ip", "127.0.0.1", "--cluster-announce-port")
    with server(tmp_path, plain, *cluster, str(outside)), tls_in_front(plain, certificates, at=outside):
        with socket.create_connection(("127.0.0.1", plain)) as connection:
            connection.sendall(b"CLUSTER ADDSLOTSRANGE 0 16383\r\n")
            assert connection.recv(100) == b"+OK\r\n"
        url = f"rediss+cluster://127.0.0.1:{outside}"
        until(lambda: worker_and_scorer(f"{url}?ssl_ca_certs={certificates.file('ca')}") == [None, None], "the cluster is up")
        assert None not in worker_and_scorer(url)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("secured", [False, True], ids=["plain", "tls"])
def test_reads_that_are_asked_within_the_reply_to_another_get_their_own_answers_or_fail_with_their_connection(
    plain_port: int, certificates: Certificates, run: Callable[[Coroutine[Any, Any, None]], None], secured: bool
) -> None:
    values = {b"k%d" % n: bytes([n]) * (997 * n) for n in range(60)}  # some of several TLS records, some of a part of one
    keys = list(values)

    async def main(url: str, raw: redis.Redis) -> None:
        reader, right, lost = open_reader(url), Counter[int](), Counter[int]()

        async def again_and_again(task: int) -> None:
            for n in range(60):
                asked = [keys[(task + n) % 60], keys[(7 * task + 3 * n) % 60]]
                try:
                    assert await reader.read(asked, PATIENCE_S) == [values[key] for key in asked]
                    right[task] += 1
                except UnavailableError:
                    lost[task] += 1
                    await asyncio.sleep(0.001)

        await reader.start()
        tasks = [EagerTask(again_and_again(task)).start() for task in range(40)]
        for cut in range(1, 6):
            while right.total() + lost.total() < 300 * cut:
                await asyncio.sleep(0)
            raw.client_kill_filter(_type="normal", skipme=True)
        for task in tasks:
            await task
        assert {n: right[n] + lost[n] for n in range(40)} == dict.fromkeys(range(40), 60)
        assert right.total() > 300 and lost.total() > 0
        await reader.close()

    with ExitStack() as exits:
        raw = exits.enter_context(redis.Redis(port=plain_port))
        raw.mset(values)
        port = exits.enter_context(tls_in_front(plain_port, certificates)) if secured else plain_port
        run(main(f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificates.file('ca')}" if secured else f"redis://127.0.0.1:{port}", raw))


@pytest.mark.parametrize("scheme", ["rediss", "rediss+cluster"])
@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("ssl_ca_cert=/a.pem", "there is no option 'ssl_ca_cert'; there are ssl_ca_certs, "),
        ("retry_on_timeout=true", "there is no option 'retry_on_timeout'"),
        ("ssl_cert_reqs=never", "ssl_cert_reqs=never is none of none, optional, required"),
    ],
)
def test_an_option_that_there_is_not_is_named(scheme: str, query: str, said: str) -> None:
    assert_refused(f"{scheme}://127.0.0.1:1?ssl_password={PASSWORD}&{query}", said)


def test_options_of_tls_want_tls_and_files_that_are_not_there_are_named() -> None:
    assert_refused("redis://127.0.0.1:1?ssl_ca_certs=/a.pem", "ssl_ca_certs is of TLS, which rediss:// has")
    for scheme in ("rediss", "rediss+cluster"):
        for query in ("ssl_ca_certs=/none/a.pem", "ssl_certfile=/none/a.pem"):
            assert_refused(f"{scheme}://127.0.0.1:1?{query}", f"{query} cannot be ")
