"""What is done about each thing that can become of a commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from featureflow.clock import ManualClock
from featureflow.errors import UnavailableError, UnknownOutcomeError
from featureflow.ingest.commit import ATTEMPTS, Sending
from featureflow.store.keys import ONE, Bucket, buckets
from featureflow.store.online.memory import MemoryOnlineStore
from featureflow.store.online.protocol import Advance, Commit, Committed, OffsetRecord, Refused
from featureflow.store.online.writes import Patch, StateWrite, Writes

Step = Callable[["Scripted", Commit], Committed | Refused]


class Scripted(MemoryOnlineStore):
    """A store whose next commits go as the script says; after it, as they should."""

    def __init__(self, *script: Step) -> None:
        super().__init__(ManualClock(1_000_000))
        self.script: Iterator[Step] = iter(script)
        self.sent: list[Commit] = []
        self.create_offsets("v@1", "trip", "topic", {0: 0})
        self.token = self.claim("trip", 0, ["v@1"], "topic").token

    def commit(self, commit: Commit) -> Committed | Refused:
        self.sent.append(commit)
        return next(self.script, Scripted.applied)(self, commit)

    def applied(self, commit: Commit) -> Committed | Refused:
        return super().commit(commit)

    def lost_there(self, commit: Commit) -> Committed | Refused:
        raise UnknownOutcomeError("lost on the way there")

    def lost_back(self, commit: Commit) -> Committed | Refused:
        super().commit(commit)
        raise UnknownOutcomeError("lost on the way back")

    def taken(self, commit: Commit) -> Committed | Refused:
        self.claim("trip", 0, ["v@1"], "topic")
        raise UnknownOutcomeError("lost, and a rival came")

    def moved_on(self, to: int) -> Committed | Refused:
        return super().commit(Commit("trip", 0, self.token, (Advance("v@1", 0, to),), 0, Writes()))

    def records(self, of: int) -> list[OffsetRecord]:
        found = [self.offsets("trip", 0, ["v@1"], bucket)["v@1"] for bucket in buckets(of)]
        return [record for record in found if record is not None]

    def offset(self) -> int:
        record = self.offsets("trip", 0, ["v@1"])["v@1"]
        assert record is not None
        return record.offset


def commit(store: Scripted, *writes: StateWrite, start: int = 0, to: int = 3, of: Sequence[Bucket] = (ONE,)) -> Commit:
    return Commit("trip", 0, store.token, tuple(Advance("v@1", start, to, bucket) for bucket in of), 7, Writes.of(writes))


def send(store: Scripted, commits: Sequence[Commit]) -> list[Committed | Refused]:
    sending = Sending(store)
    sending.send(commits)
    return list(sending.outcomes())


def send_one(store: Scripted, commit: Commit) -> Committed | Refused:
    (answer,) = send(store, [commit])
    return answer


def test_an_applied_commit_is_sent_once() -> None:
    store = Scripted()
    mine = commit(store)
    assert send_one(store, mine) == Committed(1_000)
    assert store.sent == [mine]


def test_a_lost_reply_of_an_applied_commit_is_found_out_by_reading() -> None:
    store = Scripted(Scripted.lost_back)
    mine = commit(store, StateWrite(b"k", 0, b"", 0, whole=b"head"))
    assert send_one(store, mine) == Committed(1_000)
    assert store.sent == [mine]
    assert store.visible("v@1", "trip", 0) == [(1_000, 3)]


def test_a_commit_that_never_arrived_is_sent_again_as_it_was() -> None:
    store = Scripted(Scripted.lost_there)
    mine = commit(store)
    assert send_one(store, mine) == Committed(1_000)
    assert store.sent == [mine, mine]


def test_a_commit_that_never_arrives_is_given_up_as_unknown() -> None:
    store = Scripted(*[Scripted.lost_there] * 10)
    with pytest.raises(UnknownOutcomeError):
        send_one(store, commit(store))
    assert len(store.sent) == ATTEMPTS
    assert store.offset() == 0


def test_a_lost_reply_and_a_rival_is_a_refusal() -> None:
    store = Scripted(Scripted.taken)
    answer = send_one(store, commit(store))
    assert isinstance(answer, Refused)
    assert answer.reason == "fenced"
    assert len(store.sent) == 1


def test_a_lost_reply_and_an_offset_that_is_neither_is_a_refusal() -> None:
    def elsewhere(store: Scripted, sent: Commit) -> Committed | Refused:
        store.moved_on(2)
        raise UnknownOutcomeError("lost, and the offset is another")

    store = Scripted(elsewhere)
    answer = send_one(store, commit(store))
    assert isinstance(answer, Refused)


def test_a_lost_reply_and_a_broken_commit_is_a_refusal() -> None:
    store = Scripted(Scripted.lost_there)
    mine = commit(store)
    store.drop_view("v@1")
    answer = send_one(store, mine)
    assert isinstance(answer, Refused)


def test_an_empty_commit_whose_reply_is_lost_counts_as_applied() -> None:
    store = Scripted(Scripted.lost_there)
    answer = send_one(store, commit(store, start=0, to=0))
    assert isinstance(answer, Committed)


def test_a_store_that_cannot_be_read_leaves_the_outcome_open() -> None:
    class Away(Scripted):
        def offsets(
            self, source: str, partition: int, view_ids: Sequence[str], bucket: Bucket = ONE
        ) -> dict[str, OffsetRecord | None]:
            raise UnavailableError("away")

    store = Away(Scripted.lost_back)
    with pytest.raises(UnavailableError, match="away"):
        send_one(store, commit(store))


def test_keys_that_expired_are_a_refusal_and_are_not_sent_again() -> None:
    store = Scripted()
    gone = StateWrite(b"b", 9, b"head", 0, patches=(Patch(9, b"more"),))
    answer = send_one(store, commit(store, gone))
    assert isinstance(answer, Refused)
    assert answer.reason == "expired"
    assert len(store.sent) == 1


def chain(store: Scripted, *ends: int) -> list[Commit]:
    """One behind the other."""
    return [commit(store, start=start, to=to) for start, to in zip((0, *ends), ends, strict=False)]


def test_one_behind_a_lost_reply_that_was_applied_says_that_it_was_applied_too_and_not_when() -> None:
    store = Scripted(Scripted.lost_back, Scripted.lost_back)
    mine = chain(store, 3, 5)
    assert send(store, mine) == [Committed(0), Committed(1_000)]
    assert store.sent == mine
    assert store.offset() == 5


def test_commits_that_never_arrived_are_sent_again_one_behind_the_other() -> None:
    store = Scripted(Scripted.applied, Scripted.lost_there, Scripted.lost_there)
    mine = chain(store, 3, 5, 6)
    assert send(store, mine) == [Committed(1_000)] * 3
    assert store.sent == [*mine, *mine[1:]]


def test_behind_one_that_was_refused_a_lost_reply_is_not_asked_after_and_may_arrive_yet() -> None:
    def refused(store: Scripted, sent: Commit) -> Committed | Refused:
        return Refused("expired", "rows were expected", (0,))

    store = Scripted(refused, Scripted.applied, Scripted.lost_there)
    first, second, third = send(store, chain(store, 3, 5, 6))
    assert isinstance(first, Refused)
    assert isinstance(second, Refused)
    assert isinstance(third, Refused)
    assert (first.reason, second.reason, third.reason) == ("expired", "offset", "unknown")
    assert len(store.sent) == 3


def test_each_of_several_commits_has_an_outcome_of_its_own() -> None:
    store = Scripted(Scripted.lost_back, Scripted.applied, Scripted.lost_there)
    store.create_offsets("v@1", "trip", "topic", {0: 0}, 3)
    store.token = store.claim("trip", 0, ["v@1"], "topic", 3).token
    mine = [commit(store, start=start, of=[bucket]) for start, bucket in zip((0, 1, 0), buckets(3), strict=True)]
    first, second, third = send(store, mine)
    assert first == third == Committed(1_000)
    assert isinstance(second, Refused)
    assert second.reason == "offset"
    assert store.sent == [*mine, mine[2]], "only what did not arrive is sent again"
    assert [record.offset for record in store.records(3)] == [3, 0, 3]


def test_a_commit_of_several_buckets_is_sent_again_only_where_none_of_them_moved() -> None:
    store = Scripted(Scripted.lost_back, Scripted.applied, Scripted.lost_there, Scripted.applied, Scripted.lost_there)
    store.create_offsets("v@1", "trip", "topic", {0: 0}, 3)
    store.token = store.claim("trip", 0, ["v@1"], "topic", 3).token
    first, second, _ = buckets(3)
    applied, ahead = send(store, [commit(store, of=buckets(3)), commit(store, start=3, to=5, of=[first, second])])
    assert applied == Committed(0), "when it was is not known, since two of its records moved on"
    assert ahead == Committed(1_000)
    again = commit(store, start=5, to=6, of=[first, second])
    assert send(store, [again]) == [Committed(1_000)]
    assert store.sent[2:] == [again, again]
    assert [record.offset for record in store.records(3)] == [6, 6, 3]
    (torn,) = send(store, [commit(store, start=3, to=7, of=buckets(3))])
    assert isinstance(torn, Refused)
    assert (torn.reason, len(store.sent)) == ("fenced", 5)


def test_what_follows_in_any_of_its_buckets_is_void_behind_one_that_was_refused() -> None:
    def refused(store: Scripted, sent: Commit) -> Committed | Refused:
        return Refused("expired", "")

    store = Scripted(refused, Scripted.lost_there, Scripted.applied)
    store.create_offsets("v@1", "trip", "topic", {0: 0}, 3)
    store.token = store.claim("trip", 0, ["v@1"], "topic", 3).token
    first, second, third = buckets(3)
    _, behind, beside = send(store, [
        commit(store, of=[first]), commit(store, start=3, to=5, of=[first, second]), commit(store, of=[third])
    ])  # fmt: skip
    assert isinstance(behind, Refused)
    assert (behind.reason, beside, len(store.sent)) == ("unknown", Committed(1_000), 3)


def test_a_commit_that_was_not_taken_is_raised_though_others_were() -> None:
    def full(store: Scripted, sent: Commit) -> Committed | Refused:
        raise UnavailableError("takes no writes now")

    store = Scripted(Scripted.applied, full)
    store.create_offsets("v@1", "trip", "topic", {0: 0}, 2)
    store.token = store.claim("trip", 0, ["v@1"], "topic", 2).token
    with pytest.raises(UnavailableError, match="takes no writes"):
        send(store, [commit(store, of=[bucket]) for bucket in buckets(2)])
    assert len(store.sent) == 2
