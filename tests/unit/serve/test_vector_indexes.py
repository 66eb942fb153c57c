"""The vector indexes that answer follow their folder, and what is wrong with one is said while it is there."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import numpy as np

from featureflow.serve.vector_indexes import VectorIndexes
from featureflow.store.vectors import folder
from featureflow.store.vectors.folder import VectorStore


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
