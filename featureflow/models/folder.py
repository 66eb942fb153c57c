"""The files of a model's folder: read whole and checked, replaced whole, one writer at a time."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from featureflow.errors import ModelError
from featureflow.models import manifest as manifests
from featureflow.models.manifest import NAME, Artifact

ALIASES = "aliases.json"
TEXT_BYTES = 16 * 1024 * 1024              # of a manifest, of a file of aliases
VECTOR_ROWS = 32_768                       # kept with a version, evenly thinned
Float64 = NDArray[np.float64]
Bools = NDArray[np.bool_]


@contextmanager
def writing(home: Path) -> Iterator[None]:
    """One writer per model at a time, among threads and processes."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)   # given back when the file closes, also when the process dies
        yield


def versions(home: Path) -> list[str]:
    """The versions of the model whose folder this is, in no order."""
    return [p.parent.name for p in home.glob(f"[!.]*/{manifests.FILE}") if NAME.fullmatch(p.parent.name)]


def aliases(home: Path) -> dict[str, str]:
    """Alias -> version. Raises ModelError when the file is not that, or cannot be read."""
    try:
        if not os.path.lexists(home / ALIASES):
            return {}
        return msgspec.json.decode(read(home / ALIASES, limit=TEXT_BYTES), type=dict[str, str])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ModelError(f"{home / ALIASES} is not a JSON object of alias to version: {error}; correct it, or delete it") from error


def read(path: Path, limit: int) -> bytes:
    """Raises ModelError naming the path when it cannot be read, is no plain file, or has more than ``limit`` bytes."""
    try:
        _check_plain(path, limit)
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error


def _check_plain(path: Path, limit: int) -> None:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):     # a directory has an error of its own
        raise ModelError(f"{path} is no plain file (a pipe or a device would be read for ever); put the file itself there")
    if found.st_size > limit:
        raise ModelError(f"{path} has {found.st_size:,} bytes; it may have {limit:,}")


def check(home: Path, item: Artifact, place: str) -> None:
    """Raises ModelError as ``artifact`` does, and keeps nothing of the file in memory."""
    path = home / item.file
    try:
        _check_plain(path, item.bytes)
        with path.open("rb") as file:
            same = os.fstat(file.fileno()).st_size == item.bytes and hashlib.file_digest(file, "sha256").hexdigest() == item.sha256
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    if not same:
        raise _other_file(home, item, place)


def artifact(home: Path, item: Artifact, place: str) -> bytes:
    """The file's bytes, and only if they are those that were added: what is checked is what is used."""
    content = read(home / item.file, limit=item.bytes)
    if len(content) != item.bytes or hashlib.sha256(content).hexdigest() != item.sha256:
        raise _other_file(home, item, place)
    return content


def _other_file(home: Path, item: Artifact, place: str) -> ModelError:
    return ModelError(
        f"{place}: {home / item.file} is not the file that was added (its SHA-256 differs from the manifest's); "
        "restore it, or add the model again"
    )


def write(path: Path, content: bytes) -> None:
    """Write a new file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, content: bytes) -> None:
    """Write a file so that a reader, also after a crash, sees the old content or the new, whole."""
    beside = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        write(beside, content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -- rows --------------------------------------------------------------------------------------------------------------

def thinned(rows: Float64, labels: Bools | None) -> tuple[Float64, Bools | None]:
    """At most VECTOR_ROWS of the rows float64 (n, width), evenly spread, and their labels bool (n,)."""
    if labels is not None and len(labels) != len(rows):
        raise ModelError(f"{len(labels)} labels are given for {len(rows)} calibration rows; give one per row")
    if len(rows) <= VECTOR_ROWS:
        return rows, labels
    picked = np.arange(VECTOR_ROWS) * len(rows) // VECTOR_ROWS
    return rows[picked], None if labels is None else labels[picked]


def pack(rows: Float64, labels: Bools | None) -> bytes:
    """The rows float64 (n, width) and their labels bool (n,), where known, as the bytes of an .npz file."""
    buffer = io.BytesIO()
    arrays: dict[str, NDArray[np.float64] | NDArray[np.bool_]] = {"inputs": np.asarray(rows, np.float64)}
    if labels is not None:
        arrays["labels"] = np.asarray(labels, np.bool_)
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def unpack(content: bytes) -> tuple[Float64, Bools | None]:
    """The inverse of ``pack``."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return arrays["inputs"], arrays.get("labels")
