"""Live accuracy is what a naive reading of the prediction log and the labels gives, wherever the process dies."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import msgspec
import pytest
from unit.watch.test_join import DISORDER_US, LABEL, MINUTE_US, World, naive, world
from worker_rig import START_US

from featureflow.clock import ManualClock
from featureflow.define import spec, system
from featureflow.store.log.memory import MemoryLog
from featureflow.store.log.protocol import Record
from featureflow.store.mirror import ACCURACY_DOCUMENT, ACCURACY_STATE_DOCUMENT
from featureflow.store.online.memory import MemoryOnlineStore
from featureflow.watch.accuracy import SAVE_US, AccuracyWatch, Saved

DISPUTE = spec.Source(
    name="dispute",
    topic="disputes",
    time_field="at",
    disorder_us=DISORDER_US,
    future_us=10_000_000,
    fields=(
        spec.Field(name="at", type="datetime"),
        spec.Field(name="user", type="str", entity="user"),
        spec.Field(name="lost", type="bool", nullable=True),
    ),
)
PROJECT = spec.Project(entities=(spec.Entity(name="user", type="str"),), sources=(DISPUTE,), labels=(LABEL,))
PREDICTIONS = system.predictions(PROJECT.name)
END_US = START_US + 100 * MINUTE_US


class Rig:
    def __init__(self, project: spec.Project = PROJECT, partitions: int = 2) -> None:
        self.project = project
        self.clock = ManualClock(START_US)
        self.log, self.online = MemoryLog(self.clock), MemoryOnlineStore(self.clock)
        for topic in (PREDICTIONS.topic, DISPUTE.topic):
            self.log.ensure_topic(topic, partitions)
        self.luck = random.Random(1)

    def watch(self) -> AccuracyWatch:
        made = AccuracyWatch(self.log, self.online, self.project, self.clock)
        made.open()
        return made

    def score(self, number: str, user: str | None, version: str, at_us: int, score: float | None, model: str = "fraud") -> None:
        row = {
            "asked_at": at_us, "prediction_id": number, "model": model, "model_version": version, "score": score,
            "entities": json.dumps({"user": user, "device": 7}),
        }
        self._append(PREDICTIONS.topic, row)

    def dispute(self, user: str | None, at_us: int, lost: bool | None) -> None:
        self._append(DISPUTE.topic, {"at": at_us, "user": user, "lost": lost})

    def _append(self, topic: str, row: dict[str, object]) -> None:
        self.log.append(topic, [Record(json.dumps(row).encode(), partition=self.luck.randrange(2))])

    def at(self, us: int) -> None:
        self.clock.advance(max(0, us - self.clock.now_us()))

    def published(self) -> dict[str, dict[str, dict[str, float]]]:
        document = self.online.get_meta(ACCURACY_DOCUMENT)
        assert document is not None
        return msgspec.json.decode(document)

    def drain(self, watch: AccuracyWatch) -> int:
        """How many records were read."""
        read = watch.step(timeout_s=0)  # its first poll is only given the partitions
        while more := watch.step(timeout_s=0):
            read += more
        return read


def lived(rig: Rig, made: World, seed: int, between: Callable[[AccuracyWatch], AccuracyWatch]) -> AccuracyWatch:
    """Everything is appended in the order of its time and a delay, and read meanwhile."""
    luck = random.Random(seed)
    items: list[tuple[int, int, object]] = []
    items += [(START_US + one.asked_us + luck.randrange(2_000_000), i, one) for i, one in enumerate(made.scores)]
    items += [(START_US + one.at_us + luck.randrange(DISORDER_US), 1_000 + i, one) for i, one in enumerate(made.labels)]
    watch = rig.watch()
    for now_us, _, one in sorted(items, key=lambda item: item[:2]):
        rig.at(now_us)
        if hasattr(one, "prediction_id"):
            rig.score(one.prediction_id, one.entity, one.version, START_US + one.asked_us, one.score)
            if luck.random() < 0.2:  # its acknowledgement was lost: it is appended again
                rig.score(one.prediction_id, one.entity, one.version, START_US + one.asked_us, one.score)
        else:
            rig.dispute(one.entity, START_US + one.at_us, one.value)
        if luck.random() < 0.3:
            watch.step(timeout_s=0)
        watch = between(watch)
    rig.at(END_US)
    rig.drain(watch)
    watch.save()
    return watch


def distinct(made: World) -> World:
    """The memory log has offsets of its own: of labels at one instant the naive reading would need those."""
    seen: set[tuple[str, int]] = set()
    labels = [one for one in made.labels if (one.entity, one.at_us) not in seen and not seen.add((one.entity, one.at_us))]
    return World(made.scores, labels)


@pytest.mark.parametrize("seed", range(6))
def test_whoever_dies_when_each_score_counts_once_with_its_label(seed: int) -> None:
    rig, made = Rig(), distinct(world(seed))
    luck, deaths = random.Random(seed), 0

    def dies(watch: AccuracyWatch) -> AccuracyWatch:
        nonlocal deaths
        if luck.random() > 0.1:
            return watch
        deaths += 1
        watch.close()  # nothing more is saved
        return rig.watch()

    lived(rig, made, seed, dies)
    assert deaths > 5
    assert_as_naive(rig, made)


def assert_as_naive(rig: Rig, made: World) -> None:
    expected = naive(made, LABEL)
    found = rig.published()["fraud"]
    for version in ("1", "2"):
        pairs = [(score, value) for v, score, value in expected if v == version]
        assert found[version]["labels"] == len(pairs)
        assert found[version]["base_rate"] == pytest.approx(sum(value for _, value in pairs) / len(pairs))
        positives, negatives = [s for s, value in pairs if value], [s for s, value in pairs if not value]
        auc = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives) / (len(positives) * len(negatives))
        assert abs(found[version]["auc"] - auc) <= found[version]["auc_error"] + 1e-9


def test_offsets_that_do_not_move_with_the_state_would_count_scores_twice() -> None:
    class Torn(MemoryOnlineStore):
        """Keeps the state of now with the offsets of before, as two writes of which the second was lost would."""

        before: bytes | None = None

        def put_meta(self, name: str, value: bytes) -> None:
            if name == ACCURACY_STATE_DOCUMENT:
                now = msgspec.msgpack.decode(value, type=Saved)
                for joined in now.joins.values():
                    joined.recent.clear()  # else what was read twice soon after is told by its id
                if self.before is not None:
                    now.offsets = msgspec.msgpack.decode(self.before, type=Saved).offsets
                value, self.before = msgspec.msgpack.encode(now), value
            super().put_meta(name, value)

    rig, made = Rig(), distinct(world(1))
    rig.online = Torn(rig.clock)
    steps = 0

    def restarts(watch: AccuracyWatch) -> AccuracyWatch:
        nonlocal steps
        steps += 1
        if steps % 40:
            return watch
        rig.drain(watch)
        watch.save()
        watch.close()
        return rig.watch()

    lived(rig, made, 1, restarts)
    with pytest.raises(AssertionError):
        assert_as_naive(rig, made)


def test_what_is_no_label_and_no_score_of_the_model_does_not_count() -> None:
    rig = Rig()
    watch = rig.watch()
    rig.score("a", "u", "1", START_US, 0.9)
    rig.score("b", "u", "1", START_US, 0.1, model="other")
    rig.score("c", "u", "1", START_US, None)
    rig.score("d", None, "1", START_US, 0.3)
    rig.log.append(PREDICTIONS.topic, [Record(b"{", partition=0), Record(b"[]", partition=1)])
    rig.log.append(DISPUTE.topic, [Record(b"no event", partition=0)])
    rig.at(START_US + MINUTE_US)
    rig.dispute("u", START_US + 1, None)
    rig.dispute("u", START_US + 60 * MINUTE_US, False)  # of the future, by the broker's clock
    rig.dispute("u", START_US + MINUTE_US, True)
    rig.drain(watch)
    rig.at(START_US + 5 * MINUTE_US)
    watch.save()
    assert rig.published()["fraud"]["1"] | {"until_us": 0} == {
        "labels": 1, "auc": None, "auc_error": None, "base_rate": 1.0, "calibration_error": pytest.approx(0.1), "until_us": 0, "share": 1.0,
    }  # fmt: skip
    assert rig.published()["fraud"]["1"]["until_us"] == START_US + MINUTE_US


def test_a_score_without_a_label_counts_as_is_declared_once_its_time_has_passed() -> None:
    rig = Rig(msgspec.structs.replace(PROJECT, labels=(msgspec.structs.replace(LABEL, absent=False),)))
    watch = rig.watch()
    rig.score("a", "u", "1", START_US, 0.9)
    rig.drain(watch)
    rig.at(START_US + 10 * MINUTE_US)
    watch.save()
    assert rig.published() == {"fraud": {}}, "a label that is late by the disorder may come yet"
    rig.at(START_US + 10 * MINUTE_US + DISORDER_US + 1)
    watch.save()
    assert (rig.published()["fraud"]["1"]["labels"], rig.published()["fraud"]["1"]["base_rate"]) == (1, 0.0)


def test_it_saves_by_itself_and_goes_on_from_there() -> None:
    rig = Rig()
    watch = rig.watch()
    rig.score("a", "u", "1", START_US, 0.9)
    assert rig.drain(watch) == 1
    assert rig.online.get_meta(ACCURACY_STATE_DOCUMENT) is None
    rig.at(START_US + SAVE_US)
    rig.drain(watch)
    saved = rig.online.get_meta(ACCURACY_STATE_DOCUMENT)
    assert saved is not None
    watch.close()
    again = rig.watch()
    rig.score("b", "u", "1", START_US, 0.9)
    assert rig.drain(again) == 1, "what was saved is not read again"


def test_a_topic_that_was_made_anew_begins_anew() -> None:
    rig = Rig()
    watch = rig.watch()
    rig.score("a", "u", "1", START_US, 0.9)
    rig.dispute("u", START_US, True)
    rig.drain(watch)
    watch.save()
    watch.close()
    saved = msgspec.msgpack.decode(rig.online.get_meta(ACCURACY_STATE_DOCUMENT) or b"", type=Saved)
    saved.topics[PREDICTIONS.name] = "another"
    saved.joins["lost"].counted = 7
    rig.online.put_meta(ACCURACY_STATE_DOCUMENT, msgspec.msgpack.encode(saved))
    watch = rig.watch()
    assert rig.drain(watch) == 2, "both topics are read from their beginnings"
    rig.at(START_US + 10 * MINUTE_US)
    watch.save()
    assert rig.published()["fraud"]["1"]["labels"] == 1
