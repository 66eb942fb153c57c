"""The pool on real sessions: one load for all who ask, bounds that hold, and nothing dropped that is in use."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event

import numpy as np
import pytest
from unit.models.networks import COLUMNS, SIGNATURE, network

from featureflow.errors import ModelError
from featureflow.models.pool import SessionKey, SessionPool
from featureflow.models.session import Session


class Seconds:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.at = 1_000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def make(tmp_path: Path) -> Callable[[], Session]:
    content = network().export(tmp_path / "m.onnx").read_bytes()
    return lambda: Session(content, SIGNATURE, COLUMNS, "cpu", "model late@1", buckets=(1,))


@pytest.fixture
def clock() -> Seconds:
    return Seconds()


def key(version: str, model: str = "late") -> SessionKey:
    return SessionKey(model, version, "cpu", "0" * 64, "fp32", "f" * 64, 1)


def run(session: Session) -> None:
    session.run(np.zeros((1, 12), np.float32))


def test_a_key_has_one_session_and_another_key_another(make: Callable[[], Session]) -> None:
    pool = SessionPool()
    first = pool.get(key("1"), make)
    assert pool.get(key("1"), make) is first
    assert pool.get(key("2"), make) is not first
    assert pool.outcomes == {"load": 2, "hit": 1}


@pytest.mark.parametrize("other", [
    SessionKey("early", *("1", "cpu", "0" * 64, "fp32", "f" * 64, 1)), SessionKey("late", *("2", "cpu", "0" * 64, "fp32", "f" * 64, 1)),
    SessionKey("late", *("1", "cuda", "0" * 64, "fp32", "f" * 64, 1)), SessionKey("late", *("1", "cpu", "1" * 64, "fp32", "f" * 64, 1)),
    SessionKey("late", *("1", "cpu", "0" * 64, "int8", "f" * 64, 1)), SessionKey("late", *("1", "cpu", "0" * 64, "fp32", "e" * 64, 1)),
    SessionKey("late", *("1", "cpu", "0" * 64, "fp32", "f" * 64, 2)),
])  # fmt: skip
def test_keys_that_differ_in_anything_never_share_a_session(make: Callable[[], Session], other: SessionKey) -> None:
    pool = SessionPool()
    assert pool.get(key("1"), make) is not pool.get(other, make)


def test_of_many_that_ask_for_a_cold_model_one_loads_it(make: Callable[[], Session]) -> None:
    pool, began, all_asked = SessionPool(), [], Event()

    def slowly() -> Session:
        began.append(1)
        all_asked.wait(30)
        return make()

    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(pool.get, key("1"), slowly) for _ in range(8)]
        all_asked.set()
        sessions = {id(one.result(30)) for one in asked}
    assert (len(sessions), len(began)) == (1, 1)
    assert pool.outcomes == {"load": 1, "hit": 7}


def test_models_are_loaded_beside_each_other(make: Callable[[], Session]) -> None:
    pool, both = SessionPool(), Barrier(2, timeout=30)     # broken, and an error, were they loaded one after the other

    def slowly() -> Session:
        both.wait()
        return make()

    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(pool.get, key(version), slowly) for version in "12"]
        assert len({id(one.result(30)) for one in asked}) == 2


def test_a_load_that_fails_is_told_to_all_who_wait_and_tried_again_by_the_next(make: Callable[[], Session]) -> None:
    pool, all_asked = SessionPool(), Event()

    def broken() -> Session:
        all_asked.wait(30)
        raise ModelError("model late@1 is corrupted")

    with ThreadPoolExecutor(3) as threads:
        asked = [threads.submit(pool.get, key("1"), broken) for _ in range(3)]
        all_asked.set()
        assert {str(one.exception(30)) for one in asked} == {"model late@1 is corrupted"}
    assert pool.keys == ()
    assert pool.get(key("1"), make).provider == "cpu"


def test_the_least_recently_run_goes_where_there_are_too_many(make: Callable[[], Session], clock: Seconds) -> None:
    pool = SessionPool(sessions=2, now_s=clock)
    first, second = pool.get(key("1"), make), pool.get(key("2"), make)
    clock.at += 1
    run(first)                             # no call of the pool: a run is what says that a session is used
    pool.get(key("3"), make)
    assert [k.version for k in pool.keys] == ["1", "3"]
    assert (first.dropped, second.dropped) == (False, True)
    run(second)                            # for those that have it still
    assert pool.outcomes["count"] == 1


def test_the_newest_stays_where_all_others_are_in_use(make: Callable[[], Session]) -> None:
    pool = SessionPool(sessions=1)
    run(pool.get(key("1"), make))
    pool.get(key("2"), make)
    assert [k.version for k in pool.keys] == ["2"]


def test_bytes_are_bounded_and_a_model_beyond_the_bound_is_refused_by_name(make: Callable[[], Session]) -> None:
    size = make().bytes
    pool = SessionPool(session_bytes=2 * size)
    for version in "123":
        pool.get(key(version), make)
        assert pool.held_bytes <= 2 * size
    assert ([k.version for k in pool.keys], pool.outcomes["bytes"]) == (["2", "3"], 1)
    with pytest.raises(ModelError, match=r"model late@1 takes .* bytes.*raise models.session_bytes"):
        SessionPool(session_bytes=size - 1).get(key("1"), make)


def test_what_nobody_runs_for_ten_minutes_is_dropped(make: Callable[[], Session], clock: Seconds) -> None:
    pool = SessionPool(now_s=clock)
    used, unused, kept = (pool.get(key(version), make) for version in "123")
    clock.at += 599
    run(used)
    assert pool.sweep([kept]) == ()
    clock.at += 1
    assert pool.sweep([kept]) == (key("2"),)
    assert (used.dropped, unused.dropped, kept.dropped) == (False, True, False)
    clock.at += 600
    assert pool.sweep() == (key("3"), key("1"))
    assert pool.outcomes["idle"] == 3
