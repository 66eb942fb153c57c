"""The vector indexes that answer follow their folder, and what is wrong with one is said while it is there."""

from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from featureflow.serve.vector_indexes import VectorIndexes
from featureflow.store.vectors import folder
from featureflow.store.vectors.folder import VectorIndex, VectorStore

VECTORS = np.array([[1, 0], [0, 1]], np.float32)


class Watched(VectorStore):
    """Says which versions are read, and keeps whoever reads one waiting while its door is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.loads: list[str] = []
        self.entered, self.door = threading.Event(), threading.Event()
        self.door.set()

    def load(self, name: str, version: str) -> VectorIndex:
        self.loads.append(version)
        if not self.door.is_set():
            self.entered.set()
            self.door.wait(60)
        return super().load(name, version)


def test_the_version_before_goes_on_while_its_successor_is_damaged_and_nothing_is_said_of_an_index_that_is_gone(tmp_path: Path) -> None:
    async def go() -> None:
        store = VectorStore(tmp_path)
        store.add("zones", [7, 12], np.array([[1, 0], [0, 1]]))
        indexes = VectorIndexes(store)
        await indexes.refresh()
        store.add("zones", [40], np.array([[1, 0]]))
        (tmp_path / "zones" / "2" / folder.IDS).write_bytes(b"[41]")
        await indexes.refresh()
        assert (indexes.names, list(indexes.problems)) == (["zones"], ["zones"])
        index = indexes.get("zones")
        assert index is not None
        assert await indexes.near(index, np.array([1, 0], np.float32), 1) == [7]
        shutil.rmtree(tmp_path / "zones")
        await indexes.refresh()
        assert (indexes.names, indexes.problems) == ([], {})
        indexes.close()

    asyncio.run(go())


def test_a_version_that_is_refused_is_read_again_now_and_then_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        store = Watched(tmp_path)
        store.add("near", ["a"], VECTORS[:1])
        indexes = VectorIndexes(store)
        await indexes.refresh()
        store.add("near", ["b"], VECTORS[:1])
        (path := tmp_path / "near" / "2" / "ids.json").write_bytes(b"[]")
        for _ in range(4):
            await indexes.refresh()
        assert store.loads == ["1", "2"]
        assert "ids.json" in indexes.problems["near"]
        monkeypatch.setattr("featureflow.serve.vector_indexes.REFUSAL_S", 0.0)
        await indexes.refresh()
        path.write_bytes(b'["b"]')
        await indexes.refresh()
        assert store.loads == ["1", "2", "2", "2"]
        assert (indexes.problems, indexes.get("near").manifest.version) == ({}, "2")
        indexes.close()

    asyncio.run(go())


def test_what_answers_is_searched_while_its_successor_is_read(tmp_path: Path) -> None:
    async def go() -> None:
        store = Watched(tmp_path)
        store.add("near", ["a"], VECTORS[:1])
        indexes = VectorIndexes(store)
        await indexes.refresh()
        store.add("near", ["b"], VECTORS[:1])
        store.door.clear()
        refreshing = asyncio.ensure_future(indexes.refresh())
        await asyncio.to_thread(store.entered.wait, 60)
        assert await asyncio.wait_for(indexes.near(indexes.get("near"), VECTORS[0], 1), 30) == ["a"]
        store.door.set()
        await refreshing
        assert await indexes.near(indexes.get("near"), VECTORS[0], 1) == ["b"]
        indexes.close()

    asyncio.run(go())
