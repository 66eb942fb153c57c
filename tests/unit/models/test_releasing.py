"""Steps by hand: recorded in SQL, mirrored online, of versions that were loaded and checked."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from serve_rig import TIP, WITH_MODELS, train

from featureflow.clock import ManualClock
from featureflow.errors import HistoryError, ModelError, UnavailableError
from featureflow.models.manifest import Choice
from featureflow.models.release import Bounds, Release, content_of, decoded
from featureflow.models.releasing import Releasing
from featureflow.models.store import ModelStore
from featureflow.models.tensors import ModelTensor
from featureflow.models.verdict import Verdict
from featureflow.store.history.sql import SqlHistory
from featureflow.store.log.memory import MemoryLog
from featureflow.store.mirror import RELEASES_DOCUMENT, verdict_document
from featureflow.store.online.memory import MemoryOnlineStore
from featureflow.store.registry import Registry
from featureflow.store.releases import ReleaseRow, Releases


class Place:
    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock(1_700_000_000_000_000)
        self.online = MemoryOnlineStore(self.clock)
        self.history = SqlHistory(f"sqlite:///{folder / 'history.db'}")
        self.log = MemoryLog(self.clock)
        self.registry = Registry(self.history, self.online, self.log, self.clock)
        self.registry.apply(WITH_MODELS)
        self.store = ModelStore(folder / "models", self.clock, provider="cpu")
        for seed in range(3):
            train(self.store, TIP, seed)
        self.releases = self.registry.releases
        self.releasing = Releasing(self.releases, self.online, self.store, self.clock, WITH_MODELS)

    def mirrored(self) -> Release:
        document = self.online.get_meta(RELEASES_DOCUMENT)
        assert document is not None
        return decoded(bytes(msgspec.json.decode(document, type=dict[str, msgspec.Raw])["tip"]), "tip")

    def ended_by_a_scorer(self, number: int) -> None:
        self.clock.advance(1_000)
        verdict = Verdict("tip", number, "canary (tip@3): it was slow", self.clock.now_us())
        self.online.put_meta(verdict_document("tip"), msgspec.json.encode(verdict))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_step_is_recorded_and_mirrored_and_the_history_of_them_stays(place: Place) -> None:
    place.releasing.release(TIP, "1")
    place.releasing.canary(TIP, "latest", 500, sticky="rider", bounds=Bounds(errors=0.02))
    made = place.releasing.promote("tip")
    assert place.mirrored() == made
    past = place.releasing.past("tip")
    assert [(one.number, one.step, one.stable.version) for one in past] == [(1, "release", "1"), (2, "canary", "1"), (3, "promote", "3")]
    assert (past[1].sticky, past[1].candidates[0].version, past[1].bounds.errors) == ("rider", "3", 0.02)
    assert place.releasing.rollback("tip", "it lost money").stable.version == "1"


def test_an_online_store_that_lost_everything_is_told_again_by_a_rebuild(place: Place) -> None:
    made = place.releasing.release(TIP, "1")
    place.online = MemoryOnlineStore(place.clock)
    Registry(place.history, place.online, place.log, place.clock).rebuild(WITH_MODELS, [view.id for view in WITH_MODELS.views])
    assert place.mirrored() == made


def test_of_two_steps_at_the_same_time_one_is_told_to_look_again(place: Place) -> None:
    made = place.releasing.release(TIP, "1")
    row = ReleaseRow("tip", 1, 5, msgspec.json.encode(made).decode())
    with pytest.raises(HistoryError, match="tip has a release 1 already: another command made one meanwhile"):
        place.releases.add(row)


def test_what_a_scorer_has_ended_is_written_down_by_whoever_looks(place: Place) -> None:
    place.releasing.release(TIP, "1")
    place.releasing.canary(TIP, "3", 500)
    place.ended_by_a_scorer(2)
    last = place.releasing.past("tip")[-1]
    assert (last.number, last.step, last.stable.version, last.candidates) == (3, "rollback", "1", ())
    assert last.reason == "by itself: canary (tip@3): it was slow"
    assert last.made_at_us == place.clock.now_us()
    assert place.mirrored() == last
    assert len(place.releasing.past("tip")) == 3                       # once


def test_a_candidate_that_ended_by_itself_is_not_promoted_and_not_rolled_back_twice(place: Place) -> None:
    place.releasing.release(TIP, "2")
    place.releasing.release(TIP, "1")
    place.releasing.canary(TIP, "3", 500)
    place.ended_by_a_scorer(3)
    with pytest.raises(ModelError, match="was rolled back, by itself: canary"):
        place.releasing.promote("tip")
    place.releasing.canary(TIP, "3", 100)
    place.ended_by_a_scorer(5)
    assert place.releasing.rollback("tip").stable.version == "1"        # what was meant is done already


@pytest.mark.parametrize("document", [b"", b"{", b'{"model":"tip","number":"2"}', b'{"model":"\xff","number":2,"reason":"","at_us":0}'])
def test_a_verdict_that_cannot_be_read_is_none_and_keeps_no_step_from_being_taken(place: Place, document: bytes) -> None:
    place.releasing.release(TIP, "1")
    place.releasing.canary(TIP, "3", 500)
    place.online.put_meta(verdict_document("tip"), document)
    assert place.releasing.past("tip")[-1].candidates
    assert place.releasing.rollback("tip").step == "rollback"


def test_a_verdict_on_an_earlier_release_ends_no_later_one(place: Place) -> None:
    place.releasing.release(TIP, "1")
    place.releasing.canary(TIP, "3", 500)
    place.releasing.canary(TIP, "2", 500)
    place.ended_by_a_scorer(2)
    assert place.releasing.past("tip")[-1].candidates[0].version == "2"


def test_the_first_canary_says_which_version_the_others_get(place: Place) -> None:
    with pytest.raises(ModelError, match="is the latest version, which answers everybody"):
        place.releasing.canary(TIP, "3", 500)
    assert place.releasing.past("tip") == []
    made = place.releasing.canary(TIP, "3", 500, stable="1")
    assert (made.number, made.stable.version) == (2, "1")
    with pytest.raises(ModelError, match="1 is the stable version of tip; release another one first"):
        place.releasing.canary(TIP, "3", 600, stable="2")


def test_a_version_that_is_not_what_was_added_is_not_released(place: Place) -> None:
    made = place.releasing.release(TIP, "1")
    file = place.store.path / "tip" / "2" / "fp32.onnx"
    content = file.read_bytes()
    for damaged in (content[: len(content) // 2], content[:100] + bytes([content[100] ^ 1]) + content[101:]):
        file.write_bytes(damaged)
        with pytest.raises(ModelError, match="is not the file that was added"):
            place.releasing.release(TIP, "2")
    assert place.mirrored() == made


def test_a_version_that_was_made_for_other_inputs_is_not_released(place: Place) -> None:
    other = msgspec.structs.replace(TIP, inputs=TIP.inputs[:3])
    changed = msgspec.structs.replace(WITH_MODELS, models=(other,))
    with pytest.raises(ModelError, match="does not fit its definition"):
        Releasing(place.releases, place.online, place.store, place.clock, changed).release(other, "1")


def test_the_content_of_a_version_is_what_it_computes_and_not_how_fast(place: Place) -> None:
    loaded = place.store.load("tip", "1").manifest
    told = content_of(loaded)
    tensor = ModelTensor(name="x", kind="float32", shape=(None,), inputs=("count",))
    turned = (loaded.inputs[1], loaded.inputs[0], *loaded.inputs[2:])
    others = ({"column": 1}, {"output": "other"}, {"tensor": "other"}, {"tensors": (tensor,)}, {"inputs": turned})
    contents = {content_of(msgspec.structs.replace(loaded, **changes)) for changes in others}
    assert len(contents | {told, content_of(place.store.load("tip", "2").manifest)}) == len(others) + 2
    chosen = {"cpu": Choice(variant="fp32", reason="measured")}
    assert content_of(msgspec.structs.replace(loaded, version="9", created_us=1, chosen=chosen)) == told


def test_nothing_is_released_while_sql_is_down(place: Place, tmp_path: Path) -> None:
    made = place.releasing.release(TIP, "1")
    away = Releases(SqlHistory("mysql+pymysql://me:x@127.0.0.1:1/none?connect_timeout=1"), place.online)
    with pytest.raises(UnavailableError):
        Releasing(away, place.online, place.store, place.clock, WITH_MODELS).release(TIP, "2")
    assert place.mirrored() == made
