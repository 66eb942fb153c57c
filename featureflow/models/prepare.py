"""Graphs that were optimized once: the work of a load that depends on the file alone, done when it was added and kept beside it.

ONNX Runtime parses a file and optimizes its graph anew for every session, and parsing holds the interpreter's lock: 240 to 300 ms for
109 MB, in which an event loop of the same process stands still. What is kept here is the optimized graph without its weights, a few
kilobytes, and the weights in a file beside it that a session maps. Such a session is made in a fraction of the time, and no step of that
holds the lock for longer than a turn of the loop.

An optimized graph is right only for the provider, processor and ONNX Runtime that it was made by, so those are in its name. Its files are
checksummed as those of the manifest are. They are derived: where they are absent or not as they were written they are made again.

    prepared/<key>.onnx  the graph     prepared/<key>.bin  its weights, where it has large ones     prepared/<key>.json  what they are
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from featureflow.errors import ModelError
from featureflow.models import checksummed, folder
from featureflow.models.engine import session, settings
from featureflow.models.machine import machine
from featureflow.models.manifest import NAME, Artifact
from featureflow.models.onnx_file import MODEL_BYTES, parse
from featureflow.models.prepared import Prepared

FOLDER = "prepared"
OUTSIDE_BYTES = 1024                       # of a weight that stands in the file beside the graph
LARGE_BYTES = 4 * 1024**2                  # of a file that a scorer does not parse itself: below, that is over within a few milliseconds
CHILD_S = 600


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was made, of what, and where."""

    source: str                            # SHA-256 of the variant's file
    machine: str
    graph: Artifact
    weights: Artifact | None = None


def find(home: Path, item: Artifact) -> Prepared | None:
    """What was prepared for this machine's CPU of a file of the version's folder; None where that is absent or not as it was written.

    Reads all of it. Reading and hashing let go of the interpreter's lock.
    """
    at, stem = home / FOLDER, _stem(item)
    try:
        found = _decoded(folder.read(at / f"{stem}.json", limit=folder.TEXT_BYTES))
        if found is None or found.source != item.sha256 or found.machine != machine():
            return None
        for part in filter(None, (found.graph, found.weights)):
            if not NAME.fullmatch(part.file) or (at / part.file).stat().st_size != part.bytes:
                return None
            with (at / part.file).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != part.sha256:
                    return None
    except (ModelError, OSError):
        return None
    return Prepared(at / found.graph.file, found.graph.bytes + (found.weights.bytes if found.weights else 0))


def make(home: Path, item: Artifact, content: bytes) -> None:
    """Optimize a file of the version's folder for this machine's CPU, and keep that beside it. Creates a session: not in an event loop.

    Raises ModelError where ONNX Runtime does not run it, OSError where the folder cannot be written to.
    """
    at, stem = home / FOLDER, _stem(item)
    staged = at / f".making-{secrets.token_hex(8)}"
    staged.mkdir(parents=True)
    try:
        options = settings("cpu")
        options.optimized_model_filepath = str(staged / f"{stem}.onnx")
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", f"{stem}.bin")
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", str(OUTSIDE_BYTES))
        try:
            session(content, "cpu", options=options)
        except Exception as error:             # see Session
            raise ModelError(f"{item.file} cannot be prepared: {error}") from error
        files = sorted(staged.iterdir())
        parts = {path.suffix: _artifact(path) for path in files}
        record = Record(source=item.sha256, machine=machine(), graph=parts[".onnx"], weights=parts.get(".bin"))
        for path in files:
            folder.sync(path)
            path.replace(at / path.name)
        folder.replace(at / f"{stem}.json", checksummed.encode(record))       # last: what it names is there
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def make_or_not(home: Path, item: Artifact, content: bytes) -> None:
    """``make``, where nothing depends on it: a graph that ONNX Runtime runs and cannot write down is optimized at each load."""
    with suppress(ModelError, OSError):
        make(home, item, content)


def make_elsewhere(home: Path, item: Artifact) -> None:
    """``make`` in a process of its own, for a process with an event loop. Where it fails nothing is prepared, and one can do without."""
    command = [sys.executable, "-m", "featureflow.models.prepare", str(home), item.file, item.sha256, str(item.bytes)]
    with suppress(OSError, subprocess.SubprocessError):
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=CHILD_S, check=False)


def clear(home: Path, kept: set[str]) -> None:
    """Remove what was prepared of files that the version no longer has. kept: SHA-256 of those that it has."""
    for path in (home / FOLDER).glob("*.json"):
        with suppress(ModelError, OSError):
            found = _decoded(folder.read(path, limit=folder.TEXT_BYTES))
            if found is None or found.source not in kept:
                for other in (home / FOLDER).glob(f"{path.stem}.*"):
                    other.unlink()


def _stem(item: Artifact) -> str:
    return hashlib.sha256(f"{item.sha256}|cpu|{machine()}".encode()).hexdigest()[:16]


def _artifact(path: Path) -> Artifact:
    with path.open("rb") as file:
        return Artifact(file=path.name, sha256=hashlib.file_digest(file, "sha256").hexdigest(), bytes=path.stat().st_size)


def _decoded(content: bytes) -> Record | None:
    """None for what is no record, or not as it was written."""
    try:
        return checksummed.decode(content, Record)
    except ModelError:
        return None


def main(arguments: list[str]) -> None:
    """HOME FILE SHA256 BYTES: prepare that file, unless somebody did meanwhile. One at a time for each model."""
    home, file, digest, size = Path(arguments[0]), arguments[1], arguments[2], int(arguments[3])
    item = Artifact(file=file, sha256=digest, bytes=min(size, MODEL_BYTES))
    with folder.writing(home.parent):
        if find(home, item) is None:
            content = folder.artifact(home, item, str(home))
            parse(content, str(home))
            make(home, item, content)


if __name__ == "__main__":
    main(sys.argv[1:])
