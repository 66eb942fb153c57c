"""Vectors by id on disk, and near which of them another one is: ``<indexes>/<name>/<version>/`` with the index, the ids and a manifest.

A version appears whole, by one rename, and never changes; the newest one answers. Up to ``EXACT_NUMBERS`` numbers every vector is looked
at; of more a graph is searched (HNSW, Malkov & Yashunin 2016), which may miss some of the nearest.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from featureflow import limits
from featureflow.errors import VectorIndexError

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,63}")
Metric = Literal["cosine", "inner"]
EXACT_NUMBERS = 4_000_000              # about a millisecond of one core
NEIGHBOURS, LOOKED_AT_ADDED, LOOKED_AT_ASKED = 16, 80, 256
MANIFEST, INDEX, IDS = "manifest.json", "index.faiss", "ids.json"


class Manifest(Struct, frozen=True, kw_only=True):
    """What a version is. ``ids``: the type of all of its ids."""

    name: str
    version: str
    metric: Metric
    ids: Literal["str", "int"]
    count: int
    size: int                              # numbers of each vector
    exact: bool
    sha256: dict[str, str]                 # file -> checksum


class VectorIndex:
    """One version, in memory. ``near`` may be called from one thread at a time."""

    def __init__(self, manifest: Manifest, index: Any, ids: list[str] | list[int]) -> None:
        self.manifest, self._index, self._ids = manifest, index, ids

    def near(self, vector: NDArray[np.float32], n: int) -> list[str | int]:
        """At most n ids, those of the nearest vectors first. vector: float32 (size,), finite. A vector of zeros is near nothing."""
        asked = _normal(vector[None], self.manifest.metric)
        if not asked.any():
            return []
        _, places = self._index.search(asked, min(n, self.manifest.count))
        return [self._ids[place] for place in places[0].tolist() if place >= 0]


class VectorStore:
    """The indexes of a project, in ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, name: str, ids: Sequence[str] | Sequence[int], vectors: NDArray[np.floating[Any]], metric: Metric = "cosine") -> Manifest:
        """A new version of these vectors, (n, size) and finite, of n different ids. Raises VectorIndexError."""
        _check(name, ids, vectors)
        faiss, matrix = _faiss(), _normal(np.ascontiguousarray(vectors, np.float32), metric)
        n, size = matrix.shape
        exact = n * size <= EXACT_NUMBERS
        index = faiss.IndexFlatIP(size) if exact else faiss.IndexHNSWFlat(size, NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
        if not exact:
            index.hnsw.efConstruction, index.hnsw.efSearch = LOOKED_AT_ADDED, LOOKED_AT_ASKED
        index.add(matrix)
        files = {INDEX: faiss.serialize_index(index).tobytes(), IDS: msgspec.json.encode(list(ids))}
        home = self.path / name
        home.mkdir(parents=True, exist_ok=True)
        part = home / f".{secrets.token_hex(8)}"
        part.mkdir()
        try:
            for file, content in files.items():
                (part / file).write_bytes(content)
            while True:
                version = str(1 + max((int(known) for known in self._versions(name)), default=0))
                manifest = Manifest(
                    name=name, version=version, metric=metric, ids="str" if isinstance(ids[0], str) else "int", count=n, size=size,
                    exact=exact, sha256={file: hashlib.sha256(content).hexdigest() for file, content in files.items()},
                )  # fmt: skip
                (part / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
                try:
                    os.rename(part, home / version)
                    return manifest
                except OSError:                # another process has added that version meanwhile
                    if not (home / version).exists():
                        raise
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def names(self) -> list[str]:
        """Of which there is a version."""
        return sorted(home.name for home in self.path.glob("*") if NAME.fullmatch(home.name) and self._versions(home.name))

    def latest(self, name: str) -> str:
        """The newest version. Raises VectorIndexError."""
        versions = self._versions(name)
        if not versions:
            raise VectorIndexError(f"there is no vector index {name} in {self.path}; add it with featureflow index add {name} FILE.npz")
        return max(versions, key=int)

    def load(self, name: str, version: str) -> VectorIndex:
        """Checked, and ready. Raises VectorIndexError for files that are not those that were added."""
        home = self.path / name / version
        try:
            manifest = msgspec.json.decode((home / MANIFEST).read_bytes(), type=Manifest)
            files = {file: (home / file).read_bytes() for file in (INDEX, IDS)}
        except (OSError, msgspec.MsgspecError) as error:
            raise VectorIndexError(f"{home} cannot be read: {error}; add the index again") from error
        changed = [file for file, content in files.items() if hashlib.sha256(content).hexdigest() != manifest.sha256.get(file)]
        if changed:
            raise VectorIndexError(f"{home / changed[0]} is not the file that was added (its SHA-256 differs); add the index again")
        index = _faiss().deserialize_index(np.frombuffer(files[INDEX], np.uint8))
        ids: list[str] | list[int] | None = None
        with suppress(msgspec.MsgspecError):   # ids of another type
            raw = files[IDS]
            ids = msgspec.json.decode(raw, type=list[str]) if manifest.ids == "str" else msgspec.json.decode(raw, type=list[int])
        said = manifest.name, manifest.version, manifest.size, manifest.count, manifest.count
        if ids is None or said != (name, version, index.d, index.ntotal, len(ids)):
            raise VectorIndexError(f"{home / MANIFEST} is not of this index; add the index again")
        return VectorIndex(manifest, index, ids)

    def _versions(self, name: str) -> list[str]:
        return [path.parent.name for path in (self.path / name).glob(f"[0-9]*/{MANIFEST}") if path.parent.name.isdecimal()]


def _normal(matrix: NDArray[np.float32], metric: Metric) -> NDArray[np.float32]:
    """Of length 1 each, where only directions are compared; zeros stay."""
    if metric == "inner":
        return matrix
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    directions: NDArray[np.float32] = np.divide(matrix, lengths, out=np.zeros_like(matrix), where=lengths > 0)
    return directions


def _check(name: str, ids: Sequence[str] | Sequence[int], vectors: NDArray[np.floating[Any]]) -> None:
    if not NAME.fullmatch(name):
        raise VectorIndexError(f"{name!r} cannot name a vector index: write letters, digits, _ . - (at most 64, no leading . or -)")
    if vectors.ndim != 2 or not len(vectors) or len(vectors) != len(ids):
        raise VectorIndexError(f"there are {len(ids)} ids and vectors of shape {vectors.shape}; give one vector for each id, (n, size)")
    if len(ids) > limits.VECTORS_INDEXED or vectors.shape[1] > limits.VECTOR_SIZE:
        raise VectorIndexError(
            f"{len(ids)} vectors of {vectors.shape[1]} numbers are too many; at most {limits.VECTORS_INDEXED} of {limits.VECTOR_SIZE}"
        )
    if not np.isfinite(vectors).all():
        raise VectorIndexError("a vector has a number that is not finite; leave it out")
    if len(set(ids)) < len(ids) or not (all(type(one) is str for one in ids) or all(type(one) is int for one in ids)):
        raise VectorIndexError("ids are all strings or all whole numbers, each once")


def _faiss() -> Any:
    try:
        import faiss  # only where there is an index
    except ModuleNotFoundError:
        raise VectorIndexError('faiss is not installed. Run: pip install "featureflow[vectors]"') from None
    faiss.omp_set_num_threads(1)           # its threads would take the processors of those that serve
    return faiss
