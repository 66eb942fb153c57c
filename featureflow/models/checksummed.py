"""JSON documents that carry their own SHA-256: whoever reads one knows that it is as it was written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from featureflow.errors import ModelError

MEMBER = "sha256"
NONE_LATER: Mapping[str, object] = MappingProxyType({})
Document = TypeVar("Document", bound=msgspec.Struct)


def encode(document: msgspec.Struct, later: Mapping[str, object] = NONE_LATER) -> bytes:
    """Readable JSON, its last member the SHA-256 of everything else. Floats are written so that they read back exactly.

    later: members that the format did not have at first, anywhere in it, and their defaults; they count only where they say something
    else, so that a document which was written before there were such keeps its checksum.
    """
    body = msgspec.to_builtins(document)
    body[MEMBER] = _digest(document, later)
    return msgspec.json.format(msgspec.json.encode(body), indent=1)


def decode(content: bytes, kind: type[Document], later: Mapping[str, object] = NONE_LATER) -> Document | None:
    """None for a document that was changed after it was written. Raises ModelError for what is no such document."""
    try:
        body = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
        written = msgspec.json.decode(body.pop(MEMBER, msgspec.Raw(b"null")), type=str)
        found = msgspec.json.decode(msgspec.json.encode(body), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(str(error)) from error
    return found if written == _digest(found, later) else None


def _digest(document: msgspec.Struct, later: Mapping[str, object]) -> str:
    written = msgspec.json.decode(msgspec.json.encode(document, order="deterministic"))
    return hashlib.sha256(msgspec.json.encode(_without(written, later))).hexdigest()


def _without(value: Any, later: Mapping[str, object]) -> Any:
    if isinstance(value, dict):
        return {k: _without(v, later) for k, v in value.items() if k not in later or v != later[k]}
    return [_without(v, later) for v in value] if isinstance(value, list) else value
