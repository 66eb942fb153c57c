"""A schema registry on loopback that speaks the real one's HTTP API, and producers that write its wire format.

Of Protobuf it keeps FileDescriptorProtos, which is what ``?format=serialized`` asks for.
"""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import fastavro
from google.protobuf.descriptor_pb2 import FileDescriptorProto


class RegistryServer:
    """``failing``: the status that every question is answered with, 0 for none. ``asked``: the paths."""

    def __init__(self, credentials: str = "") -> None:
        self.stored: list[dict[str, Any]] = []
        self.subjects: dict[str, list[int]] = {}
        self.failing = 0
        self.asked: list[str] = []
        self.credentials = credentials
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(*registry.get(self.path, self.headers.get("Authorization", "")))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self._answer(200, {"id": registry.register(unquote(self.path.split("/")[2]), body)})

            def _answer(self, status: int, body: object) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://{self.credentials + '@' if self.credentials else ''}127.0.0.1:{self._server.server_port}"

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def register(self, subject: str, body: dict[str, Any]) -> int:
        """As ``POST /subjects/{subject}/versions``: the id, the same for the same schema."""
        kept = {key: body[key] for key in ("schema", "schemaType", "references") if key in body}
        if kept not in self.stored:
            self.stored.append(kept)
        number = self.stored.index(kept) + 1
        versions = self.subjects.setdefault(subject, [])
        if number not in versions:
            versions.append(number)
        return number

    def avro(self, subject: str, schema: dict[str, Any], references: Sequence[dict[str, Any]] = ()) -> int:
        return self.register(subject, {"schema": json.dumps(schema), **({"references": list(references)} if references else {})})

    def protobuf(self, subject: str, file: FileDescriptorProto, references: Sequence[dict[str, Any]] = ()) -> int:
        text = base64.b64encode(file.SerializeToString()).decode()
        return self.register(
            subject, {"schema": text, "schemaType": "PROTOBUF", **({"references": list(references)} if references else {})}
        )

    def get(self, path: str, authorization: str) -> tuple[int, object]:
        self.asked.append(path)
        if self.failing:
            return self.failing, {"error_code": self.failing, "message": "it fails"}
        if self.credentials and authorization != "Basic " + base64.b64encode(unquote(self.credentials).encode()).decode():
            return 401, {"error_code": 401, "message": "Unauthorized"}
        parts = urlsplit(path)
        match [unquote(part) for part in parts.path.strip("/").split("/")]:
            case ["schemas", "ids", number]:
                if not 0 < int(number) <= len(self.stored):
                    return 404, {"error_code": 40403, "message": f"Schema {number} not found"}
                found = self.stored[int(number) - 1]
            case ["subjects"]:
                return 200, list(self.subjects)
            case ["subjects", subject, "versions", version]:
                versions = self.subjects.get(subject)
                if versions is None:
                    return 404, {"error_code": 40401, "message": f"Subject '{subject}' not found."}
                at = len(versions) if version == "latest" else int(version)
                if not 0 < at <= len(versions):
                    return 404, {"error_code": 40402, "message": f"Version {version} not found."}
                found = {"subject": subject, "version": at, "id": versions[at - 1], **self.stored[versions[at - 1] - 1]}
            case _:
                return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}
        if found.get("schemaType") == "PROTOBUF" and parts.query != "format=serialized":
            return 200, {**found, "schema": 'syntax = "proto3";'}
        return 200, found


@contextmanager
def running(credentials: str = "") -> Iterator[RegistryServer]:
    server = RegistryServer(credentials)
    server.start()
    try:
        yield server
    finally:
        server.close()


def avro_record(number: int, schema: dict[str, Any], value: dict[str, Any]) -> bytes:
    """As Confluent's serializer writes it."""
    stream = io.BytesIO()
    stream.write(b"\0" + number.to_bytes(4, "big"))
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), value)
    return stream.getvalue()


def protobuf_record(number: int, message: Any, path: Sequence[int] = (0,)) -> bytes:
    """As Confluent's serializer writes it: the path of the message in its file, a lone zero for the first."""
    index = b"\0" if list(path) == [0] else b"".join(map(_zigzag, (len(path), *path)))
    return b"\0" + number.to_bytes(4, "big") + index + message.SerializeToString()


def _zigzag(number: int) -> bytes:
    number, out = number << 1, bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
