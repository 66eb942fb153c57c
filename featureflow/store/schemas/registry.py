"""A schema registry over its HTTP API: Confluent's, and those that speak it (Karapace, Apicurio, Redpanda).

https://docs.confluent.io/platform/current/schema-registry/develop/api.html
"""

from __future__ import annotations

import base64
import ssl
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import quote, unquote, urlsplit

import msgspec

from featureflow import limits
from featureflow.errors import SettingsError, UnavailableError
from featureflow.store.schemas.protocol import Kind, Reference, Schema

SETTING = "log.schema_registry_url"
TIMEOUT_S = 5.0
UNKNOWN = (40401, 40402, 40403)            # no such subject, version, schema


class _Named(msgspec.Struct, frozen=True):
    name: str
    subject: str
    version: int


class _Stored(msgspec.Struct, frozen=True):
    schema: str
    schema_type: Kind = msgspec.field(default="AVRO", name="schemaType")    # left out where it is Avro
    references: tuple[_Named, ...] = ()


class _Problem(msgspec.Struct, frozen=True):
    error_code: int = 0
    message: str = ""


class HttpSchemaRegistry:
    """``SchemaRegistry`` at a URL, which may hold a name and a password. A connection for each question: the answers are kept."""

    def __init__(self, url: str) -> None:
        no_url = f"{SETTING} is no http:// or https:// URL of a schema registry, such as http://host:8081; / in a password is %2F there"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:                 # its own message may show part of a password
            raise SettingsError(no_url) from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError(no_url)
        self._host, self._port, self._path = parts.hostname, port, parts.path.rstrip("/")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self.place = f"{parts.scheme}://{self._host}{f':{self._port}' if self._port else ''}{self._path}"
        self._headers = {"Accept": "application/vnd.schemaregistry.v1+json, application/json"}
        if parts.username:
            credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = "Basic " + base64.b64encode(credentials.encode()).decode()

    def __repr__(self) -> str:
        return f"HttpSchemaRegistry({self.place!r})"

    def schema(self, number: int) -> Schema | None:
        return self._schema(f"/schemas/ids/{number}")

    def version(self, subject: str, version: int) -> Schema | None:
        return self._schema(f"/subjects/{quote(subject, safe='')}/versions/{version}")

    def latest(self, subject: str) -> Schema | None:
        return self._schema(f"/subjects/{quote(subject, safe='')}/versions/latest")

    def ping(self) -> str:
        status, body = self._get("/subjects?limit=1")
        if status != 200:
            raise self._unavailable(f"answers {status}: {_said(body)}")
        return f"a schema registry at {self.place}"

    def _schema(self, path: str) -> Schema | None:
        found = self._stored(path)
        if found is not None and found.schema_type == "PROTOBUF":
            found = self._stored(f"{path}?format=serialized")
        if found is None:
            return None
        references = tuple(Reference(one.name, one.subject, one.version) for one in found.references)
        return Schema(found.schema_type, found.schema, references)

    def _stored(self, path: str) -> _Stored | None:
        status, body = self._get(path)
        if status == 200:
            try:
                return msgspec.json.decode(body, type=_Stored)
            except ValueError as error:
                raise self._unavailable(f"answers {path} with what is no schema: {error}") from error
        try:
            problem = msgspec.json.decode(body, type=_Problem)
        except ValueError:
            problem = _Problem()
        if status == 404 and problem.error_code in UNKNOWN:
            return None
        raise self._unavailable(f"answers {path} with {status}: {_said(body)}")

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = (
            HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)
            if self._tls is None
            else HTTPSConnection(self._host, self._port, timeout=TIMEOUT_S, context=self._tls)
        )
        try:
            connection.request("GET", self._path + path, headers=self._headers)
            response: HTTPResponse = connection.getresponse()
            body = response.read(limits.SCHEMA_BYTES + 1)
        except (OSError, HTTPException) as error:
            raise self._unavailable(f"does not answer ({error})") from error
        finally:
            connection.close()
        if len(body) > limits.SCHEMA_BYTES:
            raise self._unavailable(f"answers {path} with more than {limits.SCHEMA_BYTES} bytes")
        return response.status, body

    def _unavailable(self, problem: str) -> UnavailableError:
        return UnavailableError(f"the schema registry at {self.place} {problem}; see {SETTING}")


def _said(body: bytes) -> str:
    return body[:200].decode(errors="replace")
