"""A model that computes for long holds nobody up but those who ask for it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from time import monotonic
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from serve_rig import ServeRig, at_rest, fed, serving

from featureflow.errors import ModelError
from featureflow.models.loaded import LoadedModel
from featureflow.models.store import ModelStore
from featureflow.serve.answer import Answer, Shed
from featureflow.serve.lanes import SLOW_S
from featureflow.serve.priority import Caller

QUICK = {"entities": {"rider": "ada", "zone": 7}}
BODY = {**QUICK, "context": {"hour": 17}}
WRONG = 4711.0


class Slow:
    """The inference of "tip" takes ``seconds`` more, and beside the event loop as long as ``free`` is not set. ``on_loop``: how many ran
    on it. ``refuses``: rows with a weight of ``WRONG`` are refused.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.free = threading.Event()
        self.free.set()
        self.runs = self.on_loop = 0
        self.refuses = False


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    found = Slow()
    score = LoadedModel.score

    def slowly(self: LoadedModel, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.name == "tip":
            found.runs += 1
            time.sleep(found.seconds)
            if threading.current_thread() is threading.main_thread():
                found.on_loop += 1
            else:
                found.free.wait(60)
            if found.refuses and (inputs == WRONG).any():
                raise ModelError("it takes no such weight")
        return score(self, inputs)

    monkeypatch.setattr(LoadedModel, "score", slowly)
    yield found
    found.free.set()


async def one_answer(serve: ServeRig, body: object) -> Answer:
    answer = await serve.ask("tip", body)
    assert isinstance(answer, Answer)
    return answer


async def known_as_slow(serve: ServeRig, slow: Slow) -> None:
    slow.seconds = 3 * SLOW_S
    for _ in range(60):                    # what an inference takes is looked at every 50 ms
        assert isinstance(await serve.ask("tip", BODY), Answer)
    slow.seconds = 0.0


def test_a_quick_model_is_answered_while_a_slow_one_computes(models: ModelStore, slow: Slow) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve:
            await known_as_slow(serve, slow)
            slow.free.clear()
            runs = slow.runs
            first, second = serve.begin("tip", BODY), serve.begin("tip", BODY)
            while slow.runs == runs:
                await asyncio.sleep(0)
            for _ in range(20):
                assert isinstance(await asyncio.wait_for(serve.ask("strict", QUICK), 30), Answer)
            assert not first.done()
            slow.free.set()
            for one in (first, second):
                assert isinstance(await one, Answer)

    asyncio.run(go())


def test_the_slow_ones_wait_for_each_other_in_a_lane_of_their_own_and_are_refused_by_what_waits_there(
    models: ModelStore, slow: Slow
) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve:
            await known_as_slow(serve, slow)
            lanes = serve.scorer.lanes
            own = lanes.of("tip")
            assert own is not lanes.quick
            assert lanes.of("strict") is lanes.quick
            slow.free.clear()
            waiting = [serve.begin("tip", BODY) for _ in range(3)]
            while own.waiting:
                await asyncio.sleep(0)
            waiting += [serve.begin("tip", BODY) for _ in range(3)]
            assert (own.waiting, lanes.quick.waiting, lanes.quick.active) == (3, 0, 0)
            assert (lanes.waiting, lanes.active) == (3, 1)
            lanes.lags(30.0)
            assert own.admission.lag_s == lanes.quick.admission.lag_s == 30.0
            slow.free.set()
            for one in waiting:
                assert isinstance(await one, Answer)

    asyncio.run(go())


def test_what_the_next_turn_reads_is_read_while_a_slow_model_computes(models: ModelStore, slow: Slow) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve:
            await known_as_slow(serve, slow)
            own, read = serve.scorer.lanes.of("tip"), list[int]()
            fetch = serve.scorer.fetcher.fetch

            async def counted(*asked: Any) -> Any:
                found = await fetch(*asked)
                read.append(own.active)
                return found

            serve.scorer.fetcher.fetch = counted  # type: ignore[method-assign]
            slow.free.clear()
            asked = []
            for turns_read in (1, 2, 2):  # the third waits: what is read too early is old when it is computed
                asked.append(serve.begin("tip", BODY))
                for _ in range(200):
                    await asyncio.sleep(0)
                    if len(read) == turns_read and own.waiting == len(asked) - turns_read:
                        break
            assert (read, own.active, own.waiting) == ([1, 2], 2, 1)
            slow.free.set()
            for one in asked:
                assert isinstance(await one, Answer)
            assert len(read) == 3

    asyncio.run(go())


def test_a_request_of_more_rows_than_a_turn_takes_goes_as_several_and_others_come_between(models: ModelStore, slow: Slow) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve:
            rows = [{**BODY, "entities": {"rider": rider, "zone": zone}} for zone in range(25) for rider in ("ada", "bob", "cid", None)]
            alone = [json.loads((await one_answer(serve, row)).body)["scores"][0] for row in rows[:8]]
            await known_as_slow(serve, slow)
            turns = slow.runs
            admission = serve.scorer.lanes.of("tip").admission
            admission.turn_rows = 24
            admission.kind("tip").costs.clear()  # what was worked out for larger ones
            slow.free.clear()
            many = serve.begin("tip", {"rows": rows, "deadline_ms": 60_000, "explain": True})
            while slow.runs == turns:
                await asyncio.sleep(0)
            body = json.dumps({**BODY, "deadline_ms": 60_000}).encode()
            mine = serve.scorer.score("tip", "", body, request_id="r2", since_s=monotonic(), caller=Caller("another"))[1]
            for _ in range(50):
                await asyncio.sleep(0)
            slow.free.set()
            answered = []
            many.add_done_callback(lambda _: answered.append("many"))
            mine.add_done_callback(lambda _: answered.append("mine"))
            assert isinstance(await mine, Answer)
            found = await many
            assert isinstance(found, Answer)
            said = json.loads(found.body)
            assert len(said["scores"]) == len(said["features"]) == len(set(said["prediction_ids"])) == len(rows)
            assert np.allclose(said["scores"][:8], alone, rtol=1e-5)
            assert answered == ["mine", "many"]
            assert slow.runs - turns >= 5

    asyncio.run(go())


def test_a_model_that_has_become_quick_travels_with_the_others_again(models: ModelStore, slow: Slow) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve:
            await known_as_slow(serve, slow)
            lanes = serve.scorer.lanes
            assert lanes.of("tip") is not lanes.quick
            measured = lanes.of("tip").admission.kind("tip")
            lanes.tell("tip", 0.9 * SLOW_S)
            assert lanes.of("tip") is not lanes.quick  # not at once, or it would come and go
            lanes.tell("tip", 0.3 * SLOW_S)
            assert lanes.of("tip") is lanes.quick
            assert lanes.quick.admission.kind("tip") is measured
            assert isinstance(await serve.ask("tip", BODY), Answer)

    asyncio.run(go())


def test_what_would_be_quick_does_not_wait_on_the_event_loop_for_the_session_that_computes_beside_it(
    models: ModelStore, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve:
            await known_as_slow(serve, slow)
            slow.free.clear()
            runs, on_loop = slow.runs, slow.on_loop
            first = serve.begin("tip", BODY)
            while slow.runs == runs:
                await asyncio.sleep(0)
            monkeypatch.setattr(serve.scorer.spent, "infer_s", lambda name, rows: 0.8 * SLOW_S)  # too much to leave the lane
            second = serve.begin("tip", BODY)
            for _ in range(200):
                await asyncio.sleep(0)
            assert not (first.done() or second.done())
            slow.free.set()
            for one in (first, second):
                assert isinstance(await one, Answer)
            assert slow.on_loop == on_loop

    asyncio.run(go())


def test_a_slow_model_that_refuses_a_row_is_asked_row_by_row_beside_the_event_loop(models: ModelStore, slow: Slow) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve:
            await known_as_slow(serve, slow)
            slow.refuses, on_loop = True, slow.on_loop
            wrong, right = serve.begin("tip", {**QUICK, "context": {"hour": 17, "weight": WRONG}}), serve.begin("tip", BODY)
            refused = await wrong
            assert isinstance(refused, Shed) and (refused.reason, refused.detail) == ("model", "it takes no such weight")
            assert isinstance(await right, Answer)
            assert slow.on_loop == on_loop

    asyncio.run(go())


def test_a_model_that_has_become_quick_leaves_its_lane_once_no_other_turn_is_under_way_there(
    models: ModelStore, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def go() -> None:
        async with serving(models, rig=fed(200)) as serve:
            await known_as_slow(serve, slow)
            lanes = serve.scorer.lanes
            own, runs = lanes.of("tip"), slow.runs
            slow.free.clear()
            first = serve.begin("tip", BODY)
            while slow.runs == runs:
                await asyncio.sleep(0)
            monkeypatch.setattr(serve.scorer.spent, "infer_s", lambda name, rows: 0.1 * SLOW_S)
            second = serve.begin("tip", BODY)
            for _ in range(200):
                await asyncio.sleep(0)
            assert (lanes.of("tip") is own, lanes.active) == (True, 2), "who waits for the end of all turns must see them"
            slow.free.set()
            for one in (first, second):
                assert isinstance(await one, Answer)
            await at_rest(lanes)
            assert isinstance(await serve.ask("tip", BODY), Answer)
            assert lanes.of("tip") is lanes.quick

    asyncio.run(go())
