"""Vectors on disk: the nearest are the nearest, a version is whole or not there, and a flipped bit is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from featureflow.errors import VectorIndexError
from featureflow.store.vectors import folder
from featureflow.store.vectors.folder import VectorStore

DRAW = np.random.default_rng(3)
VECTORS = DRAW.normal(size=(500, 12)).astype(np.float32)
IDS = [f"m{number}" for number in range(500)]


def by_hand(vectors: np.ndarray, asked: np.ndarray, n: int, metric: str) -> list[int]:
    scores = vectors @ asked
    if metric == "cosine":
        scores = scores / np.linalg.norm(vectors, axis=1)
    return np.argsort(-scores)[:n].tolist()


@pytest.mark.parametrize("metric", ["cosine", "inner"])
def test_the_nearest_of_a_small_index_are_exactly_those(tmp_path: Path, metric: folder.Metric) -> None:
    store = VectorStore(tmp_path)
    assert store.add("near", IDS, VECTORS, metric).exact
    index = store.load("near", store.latest("near"))
    for asked in DRAW.normal(size=(20, 12)).astype(np.float32):
        assert index.near(asked, 30) == [IDS[place] for place in by_hand(VECTORS, asked, 30, metric)]
    assert index.near(np.zeros(12, np.float32), 5) == []
    assert len(index.near(VECTORS[0], 1_000)) == 500


def test_of_many_vectors_a_graph_is_searched_and_finds_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "EXACT_NUMBERS", 100)
    store = VectorStore(tmp_path)
    assert not store.add("near", list(range(500)), VECTORS).exact
    index = store.load("near", "1")
    hits = sum(len(set(index.near(asked, 20)) & set(by_hand(VECTORS, asked, 20, "cosine"))) for asked in VECTORS[:20])
    assert hits > 380


def test_the_newest_version_answers_and_the_old_ones_stay(tmp_path: Path) -> None:
    store = VectorStore(tmp_path)
    versions = [store.add("near", IDS[:n], VECTORS[:n]).version for n in range(1, 12)]
    assert versions == [str(n) for n in range(1, 12)]
    assert (store.latest("near"), store.names()) == ("11", ["near"])
    assert set(store.load("near", "2").near(VECTORS[0], 10)) == {"m0", "m1"}


@pytest.mark.parametrize("file", [folder.INDEX, folder.IDS])
def test_a_flipped_bit_is_refused(tmp_path: Path, file: str) -> None:
    store = VectorStore(tmp_path)
    store.add("near", IDS, VECTORS)
    path = tmp_path / "near" / "1" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(VectorIndexError, match="SHA-256"):
        store.load("near", "1")


@pytest.mark.parametrize("changed", [{"name": "far"}, {"version": "2"}, {"ids": "int"}, {"count": 499}, {"size": 11}])
def test_a_manifest_of_another_index_is_refused(tmp_path: Path, changed: dict[str, object]) -> None:
    store = VectorStore(tmp_path)
    store.add("near", IDS, VECTORS)
    path = tmp_path / "near" / "1" / folder.MANIFEST
    path.write_bytes(msgspec.json.encode({**msgspec.json.decode(path.read_bytes()), **changed}))
    with pytest.raises(VectorIndexError, match=r"manifest\.json is not of this index"):
        store.load("near", "1")


@pytest.mark.parametrize(
    ("ids", "vectors", "said"),
    [
        (["a", "a"], VECTORS[:2], "each once"),
        (["a", 1], VECTORS[:2], "all strings or all whole numbers"),
        (["a"], VECTORS[:2], "1 ids and vectors"),
        ([], VECTORS[:0], "0 ids"),
        (["a"], np.full((1, 3), np.nan), "not finite"),
        (["a"], np.ones((1, 5_000)), "too many"),
    ],
)
def test_what_cannot_be_indexed_is_refused(tmp_path: Path, ids: list[str], vectors: np.ndarray, said: str) -> None:
    with pytest.raises(VectorIndexError, match=said):
        VectorStore(tmp_path).add("near", ids, vectors)
    with pytest.raises(VectorIndexError, match="cannot name"):
        VectorStore(tmp_path).add("../near", ["a"], VECTORS[:1])
    assert not list(tmp_path.rglob("*.faiss"))
