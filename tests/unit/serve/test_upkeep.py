"""What a scorer does beside answering goes on, whatever goes wrong in it once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from serve_rig import Rig, fed, models_in, serving

from featureflow.serve import upkeep
from featureflow.serve.upkeep import Upkeep
from featureflow.store.keys import Keys
from featureflow.store.log.memory import MemoryLog
from featureflow.store.mirror import PROJECT_DOCUMENT


class OddLog(MemoryLog):
    """Its ping breaks in a way that nobody foresaw, once it is told to."""

    broken = False

    def ping(self) -> str:
        if self.broken:
            raise OSError("nobody foresaw this")
        return super().ping()


def test_a_fault_that_nobody_foresaw_is_told_and_does_not_end_the_upkeep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "LOG_S", 0.001)
    log = OddLog()

    async def go() -> None:
        async with serving(models_in(tmp_path), rig=Rig()) as serve:
            kept = Upkeep(serve.scorer, log)
            await kept.start()
            try:
                async with asyncio.timeout(60):
                    log.broken = True
                    while "log" not in kept.ready().down:
                        await asyncio.sleep(0)
                    assert "nobody foresaw this" in kept.ready().down["log"]
                    log.broken = False
                    while "log" in kept.ready().down:
                        await asyncio.sleep(0)
            finally:
                kept.close()

    asyncio.run(go())


def test_a_store_that_was_emptied_is_not_ready_until_it_says_again_what_is_applied(tmp_path: Path) -> None:
    async def go() -> None:
        rig = fed(20)
        async with serving(models_in(tmp_path), rig=rig) as serve:
            kept = Upkeep(serve.scorer, MemoryLog())
            assert kept.ready().ready
            key = Keys("default").meta(PROJECT_DOCUMENT)
            document = rig.online.get_meta(PROJECT_DOCUMENT)
            assert document is not None
            rig.online.damage(key, None)
            await serve.scorer.refresh()
            assert not kept.ready().ready
            assert "it was emptied" in kept.ready().down["definitions"]
            assert "Run `featureflow rebuild`" in kept.ready().down["definitions"]
            rig.online.put_meta(PROJECT_DOCUMENT, b"{}x")
            await serve.scorer.refresh()
            assert kept.ready().ready, "those of before are served: what cannot be read was written by another version"
            rig.online.put_meta(PROJECT_DOCUMENT, document)
            await serve.scorer.refresh()
            assert (kept.ready().ready, kept.ready().down) == (True, {})

    asyncio.run(go())


def test_a_models_folder_that_cannot_be_read_is_told_and_what_is_loaded_goes_on_answering(tmp_path: Path) -> None:
    async def go() -> None:
        store = models_in(tmp_path)
        async with serving(store, rig=Rig()) as serve:
            aliases = store.path / "tip" / "aliases.json"
            aliases.unlink()
            aliases.mkdir()
            await serve.scorer.models.refresh()
            assert "aliases.json" in (serve.scorer.models.problem("tip") or "")
            assert serve.scorer.models.latest("tip") is not None

    asyncio.run(go())
