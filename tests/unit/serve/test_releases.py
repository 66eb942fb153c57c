"""A scorer carries releases out: who gets which version, what it says of it, and what it does when a candidate goes wrong."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from serve_rig import TIP, WITH_MODELS, Rig, ServeRig, fed, listening, models_in, serving, train
from structlog.testing import capture_logs
from worker_rig import KEYS

from featureflow.errors import ModelError, UnavailableError
from featureflow.models.loaded import LoadedModel
from featureflow.models.pooled import said
from featureflow.models.release import WHOLE, Bounds, Release
from featureflow.models.releasing import Releasing
from featureflow.models.store import ModelStore
from featureflow.models.verdict import Verdict
from featureflow.serve.answer import Answer, Shed
from featureflow.serve.pooling import Pooling
from featureflow.serve.version import Version
from featureflow.store.history.sql import SqlHistory
from featureflow.store.mirror import ACCURACY_DOCUMENT, RELEASES_DOCUMENT, Accuracy, trial_name, verdict_document
from featureflow.store.releases import Releases

HALF = WHOLE // 2
RIDERS = [f"rider-{i}" for i in range(30)]
AT_ONCE = 20                               # requests in a turn


@pytest.fixture(scope="module", autouse=True)
def three_versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three versions of ``tip``."""
    store = models_in(tmp_path_factory.mktemp("versions"))
    for seed in (1, 2):
        train(store, TIP, seed)
    return store.path


@pytest.fixture(autouse=True)
def models_folder(three_versions: Path, tmp_path: Path) -> None:
    shutil.copytree(three_versions, tmp_path / "models")


class Released:
    """A scorer of ``tip`` with three versions, and whoever releases them."""

    def __init__(self, serve: ServeRig, releasing: Releasing) -> None:
        self.serve, self.releasing = serve, releasing

    async def follow(self) -> None:
        await self.serve.scorer.follow()
        await self.serve.scorer.releases.settled()
        self.serve.rig.clock.advance(1_000_000)

    async def ask(self, *riders: str | None, ref: str = "", request_id: str = "r1") -> dict[str, Any]:
        rows = [{"entities": {"rider": rider, "zone": 7}, "context": {"hour": 17}} for rider in riders]
        future = self.serve.scorer.score(
            "tip", ref, msgspec.json.encode({"rows": rows}), request_id=request_id, since_s=asyncio.get_running_loop().time()
        )[1]
        answer = await future
        assert isinstance(answer, Answer), answer
        found: dict[str, Any] = msgspec.json.decode(answer.body)
        return found

    async def arms(self, **more: Any) -> dict[str, str]:
        return {rider: (await self.ask(rider, **more))["assignment"]["arm"] for rider in RIDERS}


@asynccontextmanager
async def released(folder: Path, rig: Rig | None = None) -> AsyncIterator[Released]:
    store = ModelStore(folder / "models", provider="cpu")
    rig = rig or fed(60)
    history = SqlHistory(f"sqlite:///{folder / 'history.db'}")
    history.migrate()
    try:
        async with serving(store, rig=rig) as serve:
            yield Released(serve, Releasing(Releases(history, rig.online), rig.online, store.apart(), rig.clock, WITH_MODELS))
    finally:
        history.close()


def refusing(loaded: LoadedModel, *, every: int = 1) -> LoadedModel:
    """The same, but it gives no score to the rows whose number can be divided by ``every``."""
    seen = 0

    class Refusing(LoadedModel):
        def score(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
            nonlocal seen
            seen += len(inputs)
            if len(inputs) > 1 or seen % every == 0:
                raise ModelError("this version cannot")
            return super().score(inputs)

    return Refusing(*(getattr(loaded, field) for field in loaded.__dataclass_fields__))


def replace_version(serve: ServeRig, version: str, by: LoadedModel) -> None:
    ready = serve.scorer.models._ready
    ready["tip", version] = Version(by, *(getattr(ready["tip", version], name) for name in ("declared", "plan", "body")))


# -- who gets which version --------------------------------------------------------------------------------------------

def test_without_a_release_the_latest_version_answers_and_nothing_is_said_of_one(tmp_path: Path) -> None:
    async def go() -> None:
        async with released(tmp_path) as here:
            answer = await here.ask("ada")
            assert answer["version"] == "3"
            assert "assignment" not in answer

    asyncio.run(go())


def test_a_released_version_answers_whatever_is_added_after_it(tmp_path: Path) -> None:
    async def go() -> None:
        async with released(tmp_path) as here:
            here.releasing.release(TIP, "1")
            await here.follow()
            train(here.serve.models, TIP, 9)
            await here.serve.scorer.models.refresh()
            answer = await here.ask("ada")
            assert (answer["version"], answer["assignment"]) == ("1", {"release": 1, "arm": "stable"})
            await here.serve.scorer.models.find(here.serve.scorer.served.model("tip").model, "4")
            await asyncio.gather(*here.serve.scorer.models._loading.values())
            assert (await here.ask("ada", ref="4"))["version"] == "4"
            assert "assignment" not in await here.ask("ada", ref="1")
            assert here.serve.scorer.models.latest("tip").loaded.version == "1"  # type: ignore[union-attr]

    asyncio.run(go())


def test_a_sticky_entity_gets_the_same_version_each_time_and_it_is_said_and_logged(tmp_path: Path) -> None:
    async def go() -> None:
        async with released(tmp_path) as here:
            made = here.releasing.canary(TIP, "2", HALF, stable="1", sticky="rider")
            await here.follow()
            arms = await here.arms(request_id="first")
            assert await here.arms(request_id="second") == arms
            assert set(arms.values()) == {"stable", "canary"}
            expected = {rider: made.arm_of(f"str:{rider}") for rider in RIDERS}
            assert arms == {rider: arm.name for rider, arm in expected.items()}
            logged = [row for row in here.serve.logged() if row["request_id"] == "first"]
            told = {msgspec.json.decode(row["entities"])["rider"]: row for row in logged}
            assert {rider: msgspec.json.decode(row["assignment"]) for rider, row in told.items()} == {
                rider: {"release": 2, "arm": arm.name} for rider, arm in expected.items()
            }
            assert {rider: row["model_version"] for rider, row in told.items()} == {r: a.version for r, a in expected.items()}

    asyncio.run(go())


def test_without_an_entity_each_request_draws_by_its_own_id(tmp_path: Path) -> None:
    async def go() -> None:
        async with released(tmp_path) as here:
            here.releasing.canary(TIP, "2", HALF, stable="1")
            await here.follow()
            drawn = [(await here.ask("ada", request_id=f"r{i}"))["assignment"]["arm"] for i in range(40)]
            assert 5 < drawn.count("canary") < 35
            assert drawn == [(await here.ask("bob", request_id=f"r{i}"))["assignment"]["arm"] for i in range(40)]

    asyncio.run(go())


def test_rows_of_one_request_each_get_their_entitys_version_and_stay_in_order(tmp_path: Path) -> None:
    async def go() -> None:
        async with released(tmp_path) as here:
            here.releasing.canary(TIP, "2", HALF, stable="1", sticky="rider")
            await here.follow()
            alone = [await here.ask(rider) for rider in RIDERS]
            together = await here.ask(*RIDERS, None)
            assert together["assignment"]["arms"][:-1] == [one["assignment"]["arm"] for one in alone]
            assert set(together["assignment"]["arm"].split("+")) == {"stable", "canary"}
            assert set(together["version"].split("+")) == {"1", "2"}
            assert np.allclose(together["scores"][:-1], [one["scores"][0] for one in alone], rtol=1e-6)
            assert len(set(together["prediction_ids"])) == len(RIDERS) + 1
            assert together["request_id"] == "r1"

    asyncio.run(go())


def test_who_names_a_version_is_of_no_arm_though_he_travels_with_those_that_are(tmp_path: Path) -> None:
    async def go() -> None:
        async with released(tmp_path) as here:
            here.releasing.release(TIP, "1")
            await here.follow()
            models, model = here.serve.scorer.models, here.serve.scorer.served.model("tip").model
            await models.find(model, "1")
            named, unnamed = await asyncio.gather(here.ask("ada", ref="1", request_id="n"), here.ask("ada", request_id="u"))
            assert "assignment" not in named and unnamed["assignment"]["arm"] == "stable"
            logged = {row["request_id"]: row.get("assignment") for row in here.serve.logged()}
            assert logged == {"n": None, "u": '{"release":1,"arm":"stable"}'}
            assert here.serve.scorer.releases.counts["tip", "stable", "1"].rows == 1

    asyncio.run(go())


def test_of_a_request_that_is_answered_in_parts_one_that_fails_fails_the_whole(tmp_path: Path) -> None:
    async def go() -> None:
        async with released(tmp_path) as here:
            here.releasing.canary(TIP, "2", HALF, stable="1", sticky="rider")
            await here.follow()
            replace_version(here.serve, "2", refusing(here.serve.models.load("tip", "2", project=WITH_MODELS)))
            rows = [{"entities": {"rider": rider, "zone": 7}, "context": {"hour": 17}} for rider in RIDERS]
            answer = await here.serve.ask("tip", {"rows": rows})
            assert isinstance(answer, Shed)
            assert answer.reason == "model"

    asyncio.run(go())


# -- how a release comes into force ------------------------------------------------------------------------------------

def test_what_answers_goes_on_until_the_new_version_is_loaded(tmp_path: Path) -> None:
    async def go() -> None:
        async with released(tmp_path) as here:
            here.releasing.release(TIP, "1")
            await here.follow()
            here.releasing.release(TIP, "2")
            await here.serve.scorer.follow()                          # begins to load, and nobody waits for it
            assert (await here.ask("ada"))["version"] in ("1", "2")
            await here.serve.scorer.releases.settled()
            assert (await here.ask("ada"))["version"] == "2"

    asyncio.run(go())


@pytest.mark.parametrize("damage", ["truncated", "flipped", "swapped", "gone"])
def test_a_version_whose_file_is_damaged_after_its_release_is_refused_and_the_old_one_stays(tmp_path: Path, damage: str) -> None:
    async def go() -> None:
        async with released(tmp_path) as here:
            here.releasing.release(TIP, "1")
            await here.follow()
            here.releasing.release(TIP, "2")
            file = here.serve.models.path / "tip" / "2" / "fp32.onnx"
            content = file.read_bytes()
            if damage == "gone":
                file.unlink()
            else:
                flipped = content[:200] + bytes([content[200] ^ 8]) + content[201:]
                other = (here.serve.models.path / "tip" / "3" / "fp32.onnx").read_bytes()
                file.write_bytes({"truncated": content[:-1], "flipped": flipped, "swapped": other}[damage])
            await here.follow()
            assert (await here.ask("ada"))["version"] == "1"
            problem = here.serve.scorer.releases.problems["tip"]
            assert "release 2 is not carried out here" in problem
            file.write_bytes(content)                                 # put right: taken up by itself
            here.serve.scorer.releases._refused.clear()
            await here.follow()
            assert (await here.ask("ada"))["version"] == "2"
            assert here.serve.scorer.releases.problems == {}

    asyncio.run(go())


def test_another_model_under_the_name_of_a_released_version_does_not_answer_for_it(tmp_path: Path) -> None:
    async def go() -> None:
        async with released(tmp_path) as here:
            here.releasing.release(TIP, "1")
            await here.follow()
            there = models_in(tmp_path / "elsewhere")                 # another machine's folder: its version 2 is another one
            train(there, TIP, 77)
            releasing = Releasing(here.releasing._releases, here.serve.rig.online, there, here.serve.rig.clock, WITH_MODELS)
            releasing.release(TIP, "2")
            await here.follow()
            assert (await here.ask("ada"))["version"] == "1"
            assert "is another one than was released under that name" in here.serve.scorer.releases.problems["tip"]

    asyncio.run(go())


def test_a_scorer_that_starts_with_a_candidate_that_it_cannot_load_serves_the_stable_version(tmp_path: Path) -> None:
    async def go() -> None:
        rig = fed(60)
        async with released(tmp_path, rig) as here:
            here.releasing.canary(TIP, "2", HALF, stable="1")
            (here.serve.models.path / "tip" / "2" / "fp32.onnx").write_bytes(b"")
            async with serving(here.serve.models, rig=rig) as again:
                answer = await again.ask("tip", {"entities": {"rider": "ada", "zone": 7}, "context": {"hour": 17}})
                assert isinstance(answer, Answer)
                assert msgspec.json.decode(answer.body)["version"] == "1"   # and not 3, which is the latest
                assert "release 2 is not carried out here" in again.scorer.releases.problems["tip"]

    asyncio.run(go())


def test_a_scorer_that_starts_where_no_released_version_can_be_loaded_answers_with_none_other(tmp_path: Path) -> None:
    async def go() -> None:
        rig = fed(60)
        async with released(tmp_path, rig) as here:
            here.releasing.release(TIP, "1")
            (here.serve.models.path / "tip" / "1" / "fp32.onnx").write_bytes(b"")
            async with serving(here.serve.models, rig=rig) as again:
                answer = await again.ask("tip", {"entities": {"rider": "ada", "zone": 7}, "context": {"hour": 17}})
                assert isinstance(answer, Shed)
                assert "is not the file that was added" in answer.detail

    asyncio.run(go())


def test_with_the_online_store_away_or_emptied_the_release_stays_in_force(tmp_path: Path) -> None:
    async def go() -> None:
        async with released(tmp_path) as here:
            here.releasing.release(TIP, "1")
            await here.follow()
            here.serve.reader.fail = UnavailableError("away")
            with pytest.raises(UnavailableError):
                await here.serve.scorer.follow()
            here.serve.reader.fail = None
            here.serve.rig.online.damage(KEYS.meta(RELEASES_DOCUMENT), None)
            await here.follow()
            assert (await here.ask("ada"))["version"] == "1"

    asyncio.run(go())


def test_a_store_that_lost_the_newest_release_is_told_it_again_and_no_scorer_goes_back(tmp_path: Path) -> None:
    async def go() -> None:
        rig = fed(60)
        async with released(tmp_path, rig) as here:
            here.serve.scorer.releases._publish = rig.online.put_meta
            for version in ("1", "2"):
                before = rig.online.get_meta(RELEASES_DOCUMENT)
                here.releasing.release(TIP, version)
                await here.follow()
            newest = rig.online.get_meta(RELEASES_DOCUMENT)
            for lost in (before, None):        # its last second; all
                rig.online.damage(KEYS.meta(RELEASES_DOCUMENT), lost)
                await here.follow()
                assert (await here.ask("ada"))["assignment"]["release"] == 2
                await until(lambda: rig.online.get_meta(RELEASES_DOCUMENT) == newest)
                await here.follow()
                assert here.serve.scorer.releases._lost is None

    asyncio.run(go())


def test_a_release_that_another_version_of_featureflow_wrote_is_told_and_changes_nothing(tmp_path: Path) -> None:
    async def go() -> None:
        async with released(tmp_path) as here:
            made = here.releasing.release(TIP, "1")
            await here.follow()
            later = {**msgspec.to_builtins(made), "number": 2, "of_a_later_version": 1}
            for document in (msgspec.json.encode({"tip": later}), b"[]"):
                here.serve.rig.online.put_meta(RELEASES_DOCUMENT, document)
                await here.follow()
                assert (await here.ask("ada"))["assignment"]["release"] == 1
            assert "another version of FeatureFlow" in here.serve.scorer.releases.problems["tip"]

    asyncio.run(go())


# -- how a candidate ends ----------------------------------------------------------------------------------------------

async def on_trial(here: Released, **bounds: object) -> Release:
    made = here.releasing.canary(TIP, "2", HALF, stable="1", bounds=Bounds(**bounds))  # type: ignore[arg-type]
    await here.follow()
    return made


async def ask_many(here: Released, n: int = 300) -> Counter[str]:
    """What became of n requests, a few at once."""
    found: Counter[str] = Counter()
    body = msgspec.json.encode({"entities": {"rider": "ada", "zone": 7}, "context": {"hour": 17}})
    for first in range(0, n, AT_ONCE):
        since_s = asyncio.get_running_loop().time()
        asked = [
            here.serve.scorer.score("tip", "", body, request_id=f"q{i}", since_s=since_s)[1] for i in range(first, min(n, first + AT_ONCE))
        ]
        for answer in await asyncio.gather(*asked):
            found[msgspec.json.decode(answer.body)["assignment"]["arm"] if isinstance(answer, Answer) else answer.reason] += 1
    return found


def test_a_candidate_that_fails_ends_here_at_once_and_the_others_are_told(tmp_path: Path) -> None:
    async def go() -> None:
        rig = fed(60)
        async with released(tmp_path, rig) as here:
            await on_trial(here)
            put: list[tuple[str, bytes]] = []

            def publish(name: str, document: bytes) -> None:
                rig.online.put_meta(name, document)
                put.append((name, document))

            here.serve.scorer.releases._publish = publish
            replace_version(here.serve, "2", refusing(here.serve.models.load("tip", "2", project=WITH_MODELS)))
            before = await ask_many(here)
            assert before["model"] > 100 and before["canary"] == 0
            await here.follow()
            assert await ask_many(here, 50) == {"stable": 50}
            carried = here.serve.scorer.releases.carried["tip"]
            assert carried.ended is not None and "rows have no score" in carried.ended
            await until(lambda: bool(put))
            assert msgspec.json.decode(put[0][1], type=Verdict).number == 2
            async with serving(here.serve.models, rig=rig) as other:        # a process that saw nothing of it
                await other.scorer.follow()
                assert other.scorer.releases.carried["tip"].ended == carried.ended

    asyncio.run(go())


async def until(so: Any) -> None:
    async with asyncio.timeout(60):
        while not so():
            await asyncio.sleep(0.001)


def test_a_candidate_that_does_well_goes_on(tmp_path: Path) -> None:
    async def go() -> None:
        async with released(tmp_path) as here:
            await on_trial(here, latency_us=60_000_000, errors=0.5)
            assert (await ask_many(here))["canary"] > 100
            await here.follow()
            assert here.serve.scorer.releases.carried["tip"].ended is None

    asyncio.run(go())


def test_a_candidate_of_other_scores_ends_where_a_drift_is_declared(tmp_path: Path) -> None:
    async def go() -> None:
        async with released(tmp_path) as here:
            await on_trial(here, score_drift=0.2)
            await ask_many(here)                                      # all of one entity: two versions give two scores
            await here.follow()
            ended = here.serve.scorer.releases.carried["tip"].ended
            assert ended is not None and "distributed otherwise" in ended

    asyncio.run(go())


def test_a_candidate_that_live_labels_speak_against_ends(tmp_path: Path) -> None:
    async def go() -> None:
        async with released(tmp_path) as here:
            await on_trial(here, auc_loss=0.02)
            until_us = here.serve.rig.clock.now_us()
            rest = {"labels": 50_000, "base_rate": 0.2, "calibration_error": 0.01, "until_us": until_us}
            said = {version: Accuracy(auc=auc, **rest) for version, auc in (("1", 0.8), ("2", 0.7))}
            here.serve.rig.online.put_meta(ACCURACY_DOCUMENT, msgspec.json.encode({"tip": said}))
            await here.follow()
            ended = here.serve.scorer.releases.carried["tip"].ended
            assert ended is not None and "live AUC is 0.7000" in ended
            assert b'featureflow_live_auc{model="tip",version="2"} 0.7' in here.serve.metrics.text()

    asyncio.run(go())


def sharing(serve: ServeRig) -> None:
    """As a process does: it tells the others what it saw."""
    serve.scorer.releases._pooling = Pooling(serve.rig.online.share)


async def failing(here: Released, serve: ServeRig, n: int = 80) -> Counter[str]:
    """n requests at a scorer whose candidate gives no score."""
    replace_version(serve, "2", refusing(serve.models.load("tip", "2", project=WITH_MODELS)))
    return await ask_many(Released(serve, here.releasing), n)


def test_a_candidate_of_which_no_process_saw_enough_ends_by_what_they_saw_together(tmp_path: Path) -> None:
    async def go() -> None:
        rig = fed(60)
        async with released(tmp_path, rig) as here:
            made = await on_trial(here)
            async with serving(here.serve.models, rig=rig) as other:
                both = (here.serve, other)
                for serve in both:
                    sharing(serve)
                    seen = await failing(here, serve, 140)
                    assert 40 < seen["model"] < made.bounds.least_rows  # of whom alone nothing is said
                    await Released(serve, here.releasing).follow()
                first, second = (serve.scorer.releases.carried["tip"] for serve in both)
                assert first.ended is None
                assert "seen in 2 processes together" in (second.ended or "")      # it had heard of the first
                await here.follow()
                assert first.ended == second.ended

    asyncio.run(go())


def test_what_one_process_saw_is_not_counted_twice(tmp_path: Path) -> None:
    async def go() -> None:
        async with released(tmp_path) as here:
            made = await on_trial(here)
            sharing(here.serve)
            seen = await failing(here, here.serve, 140)
            assert 40 < seen["model"] < made.bounds.least_rows
            for _ in range(4):
                await here.follow()
            assert here.serve.scorer.releases.carried["tip"].ended is None
            assert here.serve.scorer.releases.processes("tip") == 1

    asyncio.run(go())


def test_where_counts_cannot_be_shared_each_process_judges_what_it_saw_and_says_so(tmp_path: Path) -> None:
    async def go() -> None:
        rig = fed(60)
        async with released(tmp_path, rig) as here:
            made = await on_trial(here)
            sharing(here.serve)
            rig.online.share(trial_name("tip", made.number), "another", said({}, 1), 60_000, 8)
            together = b'featureflow_release_processes{model="tip"} %d.0'
            await here.follow()
            assert together % 2 in here.serve.metrics.text()

            def away(*_: object) -> list[bytes]:
                raise UnavailableError("away")

            here.serve.scorer.releases._pooling._share = away  # type: ignore[union-attr]
            await here.follow()
            assert together % 1 in here.serve.metrics.text()
            await failing(here, here.serve, 300)
            await here.follow()
            ended = here.serve.scorer.releases.carried["tip"].ended
            assert ended is not None and "together" not in ended
            assert b"featureflow_release_processes{" not in here.serve.metrics.text()

    asyncio.run(go())


def test_of_several_reasons_for_one_end_all_processes_name_the_one_that_stands(tmp_path: Path) -> None:
    async def go() -> None:
        rig = fed(60)
        async with released(tmp_path, rig) as here:
            made = await on_trial(here)
            await failing(here, here.serve, 300)
            here.serve.scorer.releases._publish = rig.online.put_meta
            await here.follow()
            await until(lambda: rig.online.get_meta(verdict_document("tip")))
            assert "have no score" in (here.serve.scorer.releases.carried["tip"].ended or "")
            rig.online.put_meta(verdict_document("tip"), msgspec.json.encode(Verdict("tip", made.number, "it was slow", 1)))
            await here.follow()
            assert here.serve.scorer.releases.carried["tip"].ended == "it was slow"

    asyncio.run(go())


def test_a_verdict_that_the_store_lost_is_put_there_again(tmp_path: Path) -> None:
    async def go() -> None:
        rig = fed(60)
        async with released(tmp_path, rig) as here:
            made = await on_trial(here)
            releases = here.serve.scorer.releases
            releases._publish = rig.online.put_meta
            verdict = Verdict("tip", made.number, "it was slow", 1)
            rig.online.put_meta(verdict_document("tip"), msgspec.json.encode(verdict))
            await here.follow()
            assert releases.carried["tip"].ended == "it was slow"
            rig.online.put_meta(verdict_document("tip"), b"null")
            await here.follow()
            await until(lambda: b"it was slow" in (rig.online.get_meta(verdict_document("tip")) or b""))

    asyncio.run(go())


def test_a_verdict_that_cannot_be_published_ends_the_candidate_here_all_the_same(tmp_path: Path) -> None:
    async def go() -> None:
        async with released(tmp_path) as here:
            await on_trial(here)

            def away(name: str, document: bytes) -> None:
                raise UnavailableError("away")

            here.serve.scorer.releases._publish = away
            replace_version(here.serve, "2", refusing(here.serve.models.load("tip", "2", project=WITH_MODELS)))
            await ask_many(here)
            for _ in range(3):
                await here.follow()
            assert await ask_many(here, 20) == {"stable": 20}

    asyncio.run(go())


# -- the shadow --------------------------------------------------------------------------------------------------------

def test_a_shadow_scores_the_same_rows_answers_nobody_and_is_logged(tmp_path: Path) -> None:
    async def go() -> None:
        async with released(tmp_path) as here:
            here.releasing.release(TIP, "1")
            here.releasing.shadow(TIP, "2")
            await here.follow()
            answers = []
            shadow = b'featureflow_shadow_rows_total{model="tip",outcome="scored",version="2"} %d.0'
            for number, rider in enumerate(RIDERS[:5], 1):
                answers.append(await here.ask(rider, request_id=rider))
                await until(lambda number=number: shadow % number in here.serve.metrics.text())
            assert {answer["version"] for answer in answers} == {"1"}
            loaded = {version: here.serve.models.load("tip", version, project=WITH_MODELS) for version in ("1", "2")}
            ones = np.ones((1, loaded["1"].manifest.width))
            assert loaded["1"].score(ones) != loaded["2"].score(ones)
            logged = {row["prediction_id"]: row for row in here.serve.logged()}
            for answer in answers:
                (name,) = answer["prediction_ids"]
                real, beside = logged[name], logged[f"{name}.shadow"]
                assert (real["model_version"], beside["model_version"]) == ("1", "2")
                assert msgspec.json.decode(beside["assignment"]) == {"release": 2, "arm": "shadow"}
                assert real["score"] == answer["scores"][0] != beside["score"]
                assert all(real[key] == beside[key] for key in ("features", "statuses", "applied", "entities", "context", "request_id"))

    asyncio.run(go())


def test_a_shadow_that_fails_or_does_not_keep_up_delays_and_fails_no_answer(tmp_path: Path) -> None:
    async def go() -> None:
        async with released(tmp_path) as here:
            here.releasing.release(TIP, "1")
            here.releasing.shadow(TIP, "2")
            await here.follow()
            shadows = here.serve.scorer.shadows
            held = asyncio.get_running_loop().run_in_executor(shadows._thread, (gate := threading.Event()).wait)
            answers = [await here.ask(rider, request_id=rider) for rider in RIDERS[:10]]
            assert len(answers) == 10
            text = here.serve.metrics.text()
            assert b'featureflow_shadow_rows_total{model="tip",outcome="skipped",version="2"} 6.0' in text
            (here.serve.models.path / "tip" / "2" / "manifest.json").write_bytes(b"")
            shadows.keep([])
            gate.set()
            await held
            failed = b'featureflow_shadow_rows_total{model="tip",outcome="failed",version="2"} 4.0'
            await until(lambda: failed in here.serve.metrics.text())

    asyncio.run(go())


def test_a_shadow_that_cannot_be_loaded_is_tried_again_now_and_then_and_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        async with released(tmp_path) as here:
            here.releasing.release(TIP, "1")
            here.releasing.shadow(TIP, "2")
            await here.follow()
            shadows, loads = here.serve.scorer.shadows, list[str]()

            def load(name: str, ref: str, **more: object) -> LoadedModel:
                loads.append(ref)
                raise ModelError("its file is damaged")

            monkeypatch.setattr(shadows._loader, "load", load)
            shadows.keep([])
            failed = b'featureflow_shadow_rows_total{model="tip",outcome="failed",version="2"} %d.0'
            with capture_logs() as logs:
                for number in range(1, 6):
                    await here.ask(RIDERS[0])
                    await until(lambda number=number: failed % number in here.serve.metrics.text())
                assert loads == ["2"]
                monkeypatch.setattr("featureflow.serve.shadow.REFUSAL_S", 0.0)
                await here.ask(RIDERS[0])
                await until(lambda: failed % 6 in here.serve.metrics.text())
                assert loads == ["2", "2"]
            assert [line["error"] for line in logs if line["event"] == "shadow_failed"] == ["its file is damaged"]
            monkeypatch.undo()
            monkeypatch.setattr("featureflow.serve.shadow.REFUSAL_S", 0.0)
            await here.ask(RIDERS[0])
            await until(lambda: b'outcome="scored",version="2"} 1.0' in here.serve.metrics.text())

    asyncio.run(go())


# -- what is shown -----------------------------------------------------------------------------------------------------

def test_the_release_is_shown_by_its_model_and_in_metrics(tmp_path: Path) -> None:
    async def go() -> None:
        async with released(tmp_path) as here, listening(here.serve) as http:
            await on_trial(here, latency_us=60_000_000)
            arms = await ask_many(here, 40)
            async with http.client.get(f"{http.url}/v1/models/tip") as answer:
                shown = (await answer.json())["release"]
            assert {arm["arm"]: (arm["version"], arm["share"], arm["rows"], arm["failed"]) for arm in shown["arms"]} == {
                "stable": ("1", 0.5, arms["stable"], 0), "canary": ("2", 0.5, arms["canary"], 0),
            }  # fmt: skip
            assert (shown["release"], shown["step"], shown["ended"], shown["bounds"]["latency_us"]) == (2, "canary", None, 60_000_000)
            async with http.client.get(f"{http.url}/v1/models/nobody") as answer:
                assert answer.status == 404
            async with http.client.get(f"{http.url}/metrics") as answer:
                text = await answer.text()
            assert f'featureflow_arm_rows_total{{arm="canary",model="tip",version="2"}} {arms["canary"]:.1f}' in text
            assert 'featureflow_release_number{model="tip"} 2.0' in text

    asyncio.run(go())


def test_versions_of_a_release_are_not_pushed_out_by_versions_that_callers_name(tmp_path: Path) -> None:
    async def go() -> None:
        async with released(tmp_path) as here:
            await on_trial(here)
            models, model = here.serve.scorer.models, here.serve.scorer.served.model("tip").model
            for alias in (f"a{i}" for i in range(20)):
                here.serve.models.alias("tip", alias, "3")
                await models.find(model, alias)
                await asyncio.gather(*models._loading.values())
            assert ("tip", "1") in models._ready and ("tip", "2") in models._ready
            assert set((await ask_many(here, 40)).keys()) == {"stable", "canary"}

    asyncio.run(go())
