"""A model's scores and their labels, joined: each score once, with the first label of its entity that came in time.

    1. scores wait; a label is noted at every waiting score that it may be of, and kept a while for scores that are read after it
    2. a score is counted once no earlier label can come any more: the label's source has been read past its instant, and its disorder
    3. one that no label came for in time is counted as the definition says, or not at all

The result depends on what was scored and what happened, not on the order in which the two were read. A label that comes later than its
source's ``disorder`` allows may find its score counted. State is bounded: of more scores than fit, a share is followed that is told by
a hash of their ids, half of it at a time, so that what is counted is drawn evenly.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable

import msgspec
from msgspec import Struct

from featureflow import limits
from featureflow.define import spec
from featureflow.watch.rolling import Rolling

SLACK_US = 60_000_000                  # a score is in the log so long after its instant, at the latest
MOST_HALVINGS = 40


class WaitingScore(Struct, array_like=True):
    """A score that waits. ``label``: (time, partition, offset, value) of the earliest that is known."""

    prediction_id: str
    entity: str
    version: str
    asked_us: int
    score: float
    label: tuple[int, int, int, bool] | None = None


class LabelEvent(Struct, array_like=True, frozen=True):
    """A label: ``value`` of an entity at an instant."""

    entity: str
    at_us: int
    partition: int
    offset: int
    value: bool


class JoinState(Struct):
    """Everything that has been read, as far as it still matters. ``meaning``: of the definition that it was joined by."""

    meaning: str
    rolling: Rolling
    waiting: list[WaitingScore] = []
    kept: list[LabelEvent] = []
    recent: dict[str, int] = {}            # id -> instant, of scores of late: one that was appended twice is one
    halvings: int = 0
    counted: int = 0
    absent: int = 0                        # scores that no label came for in time
    lost: int = 0                          # labels that were not kept: more came than fit


class LabelJoin:
    """One label's join. ``state`` is what it was when it was last saved; of another definition it is not taken."""

    def __init__(self, label: spec.Label, disorder_us: int, state: JoinState | None = None, *, most: int = limits.SCORES_FOLLOWED) -> None:
        self.label, self._disorder_us, self._most = label, disorder_us, most
        meaning = meaning_of(label)
        if state is None or state.meaning != meaning:
            state = JoinState(meaning, Rolling(label.over_us))
        self.state = state
        self._by_entity: dict[str, list[WaitingScore]] = defaultdict(list)
        self._kept_of: dict[str, list[LabelEvent]] = defaultdict(list)
        for scored in state.waiting:
            self._by_entity[scored.entity].append(scored)
        for event in state.kept:
            self._kept_of[event.entity].append(event)

    @property
    def share(self) -> float:
        """Of all scores, how many are followed."""
        return 0.5**self.state.halvings

    def add_score(self, scored: WaitingScore) -> None:
        """(1) A score of the model."""
        state = self.state
        if not _drawn(scored.prediction_id, state.halvings) or scored.prediction_id in state.recent:
            return
        state.recent[scored.prediction_id] = scored.asked_us
        for event in self._kept_of.get(scored.entity, ()):
            self._note(scored, event)
        state.waiting.append(scored)
        self._by_entity[scored.entity].append(scored)
        while max(len(state.waiting), len(state.recent)) > self._most and state.halvings < MOST_HALVINGS:
            state.halvings += 1
            state.recent = {one: at_us for one, at_us in state.recent.items() if _drawn(one, state.halvings)}
            self._keep(scored for scored in state.waiting if _drawn(scored.prediction_id, state.halvings))

    def add_label(self, event: LabelEvent) -> None:
        """(1) A label."""
        for scored in self._by_entity.get(event.entity, ()):
            self._note(scored, event)
        self.state.kept.append(event)
        self._kept_of[event.entity].append(event)
        if len(self.state.kept) > self._most:
            oldest = sorted(self.state.kept, key=lambda one: one.at_us)
            self.state.lost += len(oldest) // 2
            self._keep_labels(oldest[len(oldest) // 2 :])

    def settle(self, scores_us: int, labels_us: int, now_us: int) -> None:
        """(2) and (3). ``scores_us``, ``labels_us``: the instants up to which the two have been read, of every partition."""
        complete_us, state, label = labels_us - self._disorder_us, self.state, self.label
        left = []
        for scored in state.waiting:
            if scored.label is not None and scored.label[0] < complete_us:
                state.rolling.add(scored.version, scored.label[0], scored.score, scored.label[3])
                state.counted += 1
            elif scored.label is None and scored.asked_us + label.within_us < complete_us:
                state.absent += 1
                if label.absent is not None:
                    state.rolling.add(scored.version, scored.asked_us + label.within_us, scored.score, label.absent)
                    state.counted += 1
            else:
                left.append(scored)
        if len(left) < len(state.waiting):
            self._keep(left)
        read_us = scores_us - SLACK_US
        self._keep_labels([event for event in state.kept if event.at_us >= read_us])
        state.recent = {prediction_id: at_us for prediction_id, at_us in state.recent.items() if at_us >= read_us - SLACK_US}
        state.rolling.forget(now_us)
        if state.halvings and max(len(state.waiting), len(state.recent)) < self._most // 4:
            state.halvings -= 1

    def _note(self, scored: WaitingScore, event: LabelEvent) -> None:
        if not 0 <= event.at_us - scored.asked_us <= self.label.within_us:
            return
        found = (event.at_us, event.partition, event.offset, event.value)
        if scored.label is None or found < scored.label:
            scored.label = found

    def _keep(self, waiting: Iterable[WaitingScore]) -> None:
        self.state.waiting = list(waiting)
        self._by_entity = defaultdict(list)
        for scored in self.state.waiting:
            self._by_entity[scored.entity].append(scored)

    def _keep_labels(self, kept: list[LabelEvent]) -> None:
        if len(kept) == len(self.state.kept):
            return
        self.state.kept = kept
        self._kept_of = defaultdict(list)
        for event in kept:
            self._kept_of[event.entity].append(event)


def meaning_of(label: spec.Label) -> str:
    """What decides which scores get which label: another one begins anew."""
    return hashlib.sha256(msgspec.json.encode(label, order="deterministic")).hexdigest()[:16]


def _drawn(prediction_id: str, halvings: int) -> bool:
    """Whether the score is of the share that is followed: of every second half, one half of that, and so on."""
    if not halvings:
        return True
    number = int.from_bytes(hashlib.blake2b(prediction_id.encode(), digest_size=8).digest())
    return number >> (64 - halvings) == 0
