"""The online store's contract, on the store in memory, the embedded server and the real Redis alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from processes import until

from featureflow import limits
from featureflow.clock import NO_TIME_US, ManualClock
from featureflow.define.spec import DEFAULT_PROJECT
from featureflow.errors import BeingRebuiltError, OffsetMissingError, UnavailableError
from featureflow.store.keys import Bucket, Keys
from featureflow.store.online import record
from featureflow.store.online.memory import MemoryOnlineStore
from featureflow.store.online.open import open_online
from featureflow.store.online.protocol import (
    Advance,
    Answer,
    Claim,
    Commit,
    Committed,
    OffsetRecord,
    OnlineStore,
    Refused,
    Track,
)
from featureflow.store.online.redis import RedisOnlineStore
from featureflow.store.online.writes import ANY, Patch, StateWrite, Writes

KEYS = Keys(DEFAULT_PROJECT)
VIEW, SOURCE, TOPIC = "now@0123456789", "departure", "topic-1"
HEADER = b"head"
KEY = KEYS.state("carrier", "UA", VIEW, SOURCE, None)
OTHER = KEYS.state("carrier", "a:b{c}\r\n\0*", VIEW, SOURCE, None)


@pytest.fixture(params=["memory", "embedded", "production", "cluster"])
def store(request: pytest.FixtureRequest) -> Iterator[OnlineStore]:
    """An empty store."""
    if request.param == "memory":
        yield MemoryOnlineStore(ManualClock(1_700_000_000_000_000))
        return
    redis_store = open_online(request.getfixturevalue(f"{request.param}_redis_url"))
    yield redis_store
    redis_store.close()


@pytest.fixture
def claim(store: OnlineStore) -> Claim:
    store.create_offsets(VIEW, SOURCE, TOPIC, {0: 0})
    return store.claim(SOURCE, 0, [VIEW], TOPIC)


def move(claim: Claim, start: int, to: int, *writes: StateWrite, max_time_us: int = 5, views: tuple[str, ...] = (VIEW,)) -> Commit:
    return Commit(SOURCE, 0, claim.token, tuple(Advance(view, start, to) for view in views), max_time_us, Writes.of(writes))


def whole(key: bytes, value: bytes, expected: int = 0, ttl_ms: int = 60_000) -> StateWrite:
    return StateWrite(key, expected, HEADER, ttl_ms, whole=value)


def any_length(key: bytes, value: bytes) -> StateWrite:
    return StateWrite(key, ANY, b"", 60_000, whole=value)


def patch(key: bytes, expected: int, *patches: tuple[int, bytes], header: bytes = HEADER) -> StateWrite:
    return StateWrite(key, expected, header, 60_000, patches=tuple(Patch(at, data) for at, data in patches))


def at(store: OnlineStore, view: str = VIEW) -> OffsetRecord:
    stored = store.offsets(SOURCE, 0, [view])[view]
    assert stored is not None
    return stored


def answers(store: OnlineStore, commits: Sequence[Commit]) -> list[Answer]:
    """Of all of them, sent before the first is answered."""
    pipeline = store.pipeline()
    pipeline.send(commits)
    return pipeline.answers()


def refusal(answer: Committed | Refused) -> str:
    assert isinstance(answer, Refused), answer
    return answer.reason


# -- offsets and claims ------------------------------------------------------------------------------------------------


def test_offset_records_are_made_once_and_then_left_alone(store: OnlineStore) -> None:
    assert store.create_offsets(VIEW, SOURCE, TOPIC, {0: 0, 2: 7}) == [0, 2]
    assert store.create_offsets(VIEW, SOURCE, TOPIC, {0: 99, 1: 3}) == [1]
    assert at(store) == OffsetRecord(bytes(16), 0, -1, NO_TIME_US, 0, TOPIC)
    assert store.offsets(SOURCE, 5, [VIEW]) == {VIEW: None}


def test_a_claim_gives_a_fresh_token_and_the_records_as_they_stood(store: OnlineStore) -> None:
    store.create_offsets(VIEW, SOURCE, TOPIC, {0: 12})
    first, second = (store.claim(SOURCE, 0, [VIEW], TOPIC) for _ in range(2))
    assert first.token != second.token
    assert len(second.token) == 16
    assert first.records[Track(VIEW)].token == bytes(16)
    assert second.records[Track(VIEW)] == OffsetRecord(first.token, 12, -1, NO_TIME_US, 0, TOPIC)
    assert at(store).token == second.token


def test_a_claim_creates_nothing_and_is_loud_where_the_record_is_absent(store: OnlineStore) -> None:
    store.create_offsets(VIEW, SOURCE, TOPIC, {0: 0})
    with pytest.raises(OffsetMissingError, match="apply"):
        store.claim(SOURCE, 0, [VIEW, "new@1"], TOPIC)
    assert store.offsets(SOURCE, 0, ["new@1"]) == {"new@1": None}
    assert at(store).token == bytes(16), "all records are taken or none"


def test_a_claim_refuses_a_topic_that_was_created_again(store: OnlineStore) -> None:
    store.create_offsets(VIEW, SOURCE, TOPIC, {0: 0})
    with pytest.raises(OffsetMissingError, match=r"created again.*Give the event a new name, and a topic with a new name"):
        store.claim(SOURCE, 0, [VIEW], "topic-2")
    assert at(store).token == bytes(16)


# -- commits -----------------------------------------------------------------------------------------------------------


def test_a_record_keeps_the_newest_instant_at_which_it_was_complete_and_none_that_is_yet_to_come(store: OnlineStore, claim: Claim) -> None:
    assert at(store).complete_ms == 0
    told = store.now_ms()
    store.commit(replace(move(claim, 0, 10), complete_ms=told - 5_000))
    assert at(store).complete_ms == told - 5_000
    store.commit(replace(move(claim, 10, 20), complete_ms=0))
    assert at(store).complete_ms == told - 5_000, "what was so then is so still"
    store.commit(replace(move(claim, 20, 20), complete_ms=told - 9_000))
    assert at(store).complete_ms == told - 5_000
    answer = store.commit(replace(move(claim, 20, 20), complete_ms=told + 3_600_000))
    assert isinstance(answer, Committed)
    assert at(store).complete_ms == answer.committed_ms
    assert store.claim(SOURCE, 0, [VIEW], TOPIC).records[Track(VIEW)].complete_ms == answer.committed_ms
    assert at(store).topic_id == TOPIC



def test_each_bucket_is_claimed_committed_and_refused_by_itself_in_one_round_trip(store: OnlineStore) -> None:
    keys = Keys(DEFAULT_PROJECT, 4)
    assert store.create_offsets(VIEW, SOURCE, TOPIC, {0: 0, 1: 5}, 4) == [0, 1]
    assert store.create_offsets(VIEW, SOURCE, TOPIC, {0: 9, 1: 9}, 4) == []
    claim = store.claim(SOURCE, 0, [VIEW], TOPIC, 4)
    assert {track: record.offset for track, record in claim.records.items()} == {Track(VIEW, bucket): 0 for bucket in keys.buckets}
    ids = [next(f"u{i}" for i in range(1_000) if keys.number(f"u{i}") == bucket.number) for bucket in keys.buckets]
    states = [keys.state("user", entity_id, VIEW, SOURCE, None) for entity_id in ids]
    commits = [
        replace(move(claim, 0, 7, whole(key, HEADER + bytes([bucket.number]))), advances=(Advance(VIEW, 0, 7, bucket),))
        for key, bucket in zip(states, keys.buckets, strict=True)
    ]
    assert isinstance(store.commit(commits[2]), Committed)
    first, second, third, fourth = answers(store, commits)
    assert isinstance(third, Refused)
    assert third.reason == "offset"
    assert all(isinstance(answer, Committed) for answer in (first, second, fourth))
    assert store.read(states) == [HEADER + bytes([i]) for i in range(4)]
    assert [[to for _, to in store.visible(VIEW, SOURCE, 0, bucket)] for bucket in keys.buckets] == [[7]] * 4
    store.claim(SOURCE, 0, [VIEW], TOPIC, 4)
    assert [refusal(answer) for answer in answers(store, commits) if not isinstance(answer, UnavailableError)] == ["fenced"] * 4
    stored = store.offsets(SOURCE, 0, [VIEW], keys.buckets[3])[VIEW]
    assert stored is not None
    assert stored.offset == 7
    assert store.offsets(SOURCE, 0, [VIEW])[VIEW] is None, "one bucket of one is another than any of four"
    assert store.drop_view(VIEW) == 4 + 4 + 8


def test_one_commit_moves_several_buckets_of_a_server_or_none(store: OnlineStore) -> None:
    keys = Keys(DEFAULT_PROJECT, 4)
    store.create_offsets(VIEW, SOURCE, TOPIC, {0: 0}, 4)
    claim = store.claim(SOURCE, 0, [VIEW], TOPIC, 4)
    ids = [next(f"u{i}" for i in range(1_000) if keys.number(f"u{i}") == bucket.number) for bucket in keys.buckets]
    states = [keys.state("user", entity_id, VIEW, SOURCE, None) for entity_id in ids]

    def moved(start: int, to: int, among: Sequence[Bucket] = keys.buckets) -> Commit:
        writes = Writes.of([whole(states[bucket.number], HEADER + b"%d" % to) for bucket in among])
        return replace(move(claim, start, to), advances=tuple(Advance(VIEW, start, to, bucket) for bucket in among), writes=writes)

    def stands() -> list[int]:
        found = [store.offsets(SOURCE, 0, [VIEW], bucket)[VIEW] for bucket in keys.buckets]
        return [record.offset for record in found if record is not None]

    if not store.one_server:
        assert isinstance(store.commit(moved(0, 7, keys.buckets[:1])), Committed)
        return
    assert isinstance(store.commit(moved(0, 7)), Committed)
    assert (stands(), store.read(states)) == ([7] * 4, [HEADER + b"7"] * 4)
    assert [[to for _, to in store.visible(VIEW, SOURCE, 0, bucket)] for bucket in keys.buckets] == [[7]] * 4
    ahead = replace(moved(7, 9, keys.buckets[2:3]), writes=Writes())
    assert isinstance(store.commit(ahead), Committed)
    refused = store.commit(replace(moved(7, 9), writes=Writes()))
    assert isinstance(refused, Refused)
    assert (refused.reason, stands()) == ("offset", [7, 7, 9, 7])


def test_commits_sent_one_behind_the_other_are_applied_in_that_order_up_to_one_that_is_refused(store: OnlineStore, claim: Claim) -> None:
    pipeline = store.pipeline()
    rows = [b"%04d" % number for number in range(200)]
    pipeline.send([move(claim, 0, 1, whole(KEY, HEADER + rows[0]))])
    for number in range(1, 200):
        held = 7 if number == 150 else len(HEADER) + 4 * number
        pipeline.send([move(claim, number, number + 1, patch(KEY, held, (held, rows[number])))])
    found = pipeline.answers()
    assert [isinstance(answer, Committed) for answer in found] == [True] * 150 + [False] * 50
    assert [answer.reason for answer in found if isinstance(answer, Refused)] == ["mismatch"] + ["offset"] * 49
    assert store.read([KEY]) == [HEADER + b"".join(rows[:150])]
    assert at(store).offset == 150
    assert isinstance(store.commit(move(claim, 150, 151)), Committed), "the connection answers the next question"


@pytest.mark.parametrize("how", ["absent", "dirty", "format", "topic"])
def test_what_is_wrong_with_one_bucket_is_told_with_its_number_and_what_to_do(store: OnlineStore, how: str) -> None:
    keys = Keys(DEFAULT_PROJECT, 4)
    store.create_offsets(VIEW, SOURCE, TOPIC, {0: 0}, 4)
    key = keys.offset(VIEW, SOURCE, 0, keys.buckets[2])
    (value,) = store.read([key])
    assert value is not None
    if how == "absent":
        assert store.drop_view(VIEW) == 4
        store.create_offsets(VIEW, SOURCE, TOPIC, {0: 0}, 4)
        _lose(store, key)
    else:
        _put(store, key, {"dirty": value[:56] + b"%+020d" % 7 + value[76:], "format": b"FFo1" + value[4:], "topic": value + b"-old"}[how])
    do = "topic with a new name" if how == "topic" else "featureflow rebuild now"
    with pytest.raises(OffsetMissingError, match=f"departure/0, bucket 2/4.*{do}"):
        store.claim(SOURCE, 0, [VIEW], TOPIC, 4)


def test_a_commit_moves_state_offset_maximum_and_visibility_together(store: OnlineStore, claim: Claim) -> None:
    answer = store.commit(move(claim, 0, 10, whole(KEY, HEADER + b"rows"), max_time_us=-77))
    assert isinstance(answer, Committed)
    values = store.read([KEY, KEYS.offset(VIEW, SOURCE, 0), OTHER])
    assert values[0] == HEADER + b"rows"
    assert values[2] is None
    assert values[1] is not None
    assert record.decode(values[1]) == OffsetRecord(claim.token, 10, -1, -77, answer.committed_ms, TOPIC)
    assert [to for _, to in store.visible(VIEW, SOURCE, 0)] == [10]


def test_patches_overwrite_and_extend_and_whole_values_replace_and_delete(store: OnlineStore, claim: Claim) -> None:
    store.commit(move(claim, 0, 1, whole(KEY, b"headaaaabbbb"), patch(OTHER, 0, (0, b"head"), (4, b"zz"))))
    store.commit(move(claim, 1, 2, patch(KEY, 12, (4, b"AAAA"), (10, b"BBcc"), (14, b"dd"))))
    assert store.read([KEY, OTHER]) == [b"headAAAAbbBBccdd", b"headzz"]
    store.commit(move(claim, 2, 3, whole(KEY, b"headnew", expected=16), whole(OTHER, b"", expected=6)))
    assert store.read([KEY, OTHER]) == [b"headnew", None]


def test_bytes_of_every_value_come_back_as_they_were(store: OnlineStore, claim: Claim) -> None:
    every = bytes(range(256))
    header = b"\0\r\n\xff{}"
    store.commit(move(claim, 0, 1, StateWrite(KEY, 0, b"", 0, whole=header + every)))
    assert isinstance(store.commit(move(claim, 1, 2, patch(KEY, 262, (262, every), header=header))), Committed)
    assert store.read([KEY]) == [header + every + every]


def test_an_empty_commit_renews_the_time_and_leaves_no_visibility_entry(store: OnlineStore, claim: Claim) -> None:
    answer = store.commit(move(claim, 0, 0))
    assert isinstance(answer, Committed)
    assert at(store).committed_ms == answer.committed_ms > 0
    assert store.visible(VIEW, SOURCE, 0) == []


def test_a_commit_of_several_views_moves_all_of_them_or_none(store: OnlineStore) -> None:
    views = (VIEW, "then@1")
    for view in views:
        store.create_offsets(view, SOURCE, TOPIC, {0: 0})
    claim = store.claim(SOURCE, 0, views, TOPIC)
    assert isinstance(store.commit(move(claim, 0, 4)), Committed)
    assert refusal(store.commit(move(claim, 4, 9, whole(KEY, HEADER), views=views))) == "offset"
    assert at(store).offset == 4
    assert at(store, "then@1").offset == 0
    assert store.read([KEY]) == [None]
    both = Commit(SOURCE, 0, claim.token, (Advance(VIEW, 4, 9), Advance("then@1", 0, 9)), 1, Writes())
    assert isinstance(store.commit(both), Committed)
    assert at(store).offset == at(store, "then@1").offset == 9


def test_a_zombies_late_commit_is_refused(store: OnlineStore, claim: Claim) -> None:
    successor = store.claim(SOURCE, 0, [VIEW], TOPIC)
    assert isinstance(store.commit(move(successor, 0, 3, whole(KEY, b"headnew"))), Committed)
    assert refusal(store.commit(move(claim, 0, 3, whole(KEY, b"headold")))) == "fenced"
    assert refusal(store.commit(move(claim, 3, 4, patch(KEY, 7, (4, b"old"))))) == "fenced"
    assert store.read([KEY]) == [b"headnew"]
    assert at(store).offset == 3


def test_the_same_commit_twice_is_applied_once(store: OnlineStore, claim: Claim) -> None:
    store.commit(move(claim, 0, 1, whole(KEY, b"headaaaa")))
    again = move(claim, 1, 2, patch(KEY, 8, (4, b"bbbb")))
    assert isinstance(store.commit(again), Committed)
    assert refusal(store.commit(again)) == "offset"
    assert [to for _, to in store.visible(VIEW, SOURCE, 0)] == [1, 2]


def test_an_offset_that_is_absent_refuses(store: OnlineStore, claim: Claim) -> None:
    store.drop_view(VIEW)
    assert refusal(store.commit(move(claim, 0, 1))) == "offset"
    assert store.offsets(SOURCE, 0, [VIEW]) == {VIEW: None}, "a commit never creates an offset"


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(patch(KEY, 7, (4, b"X")), id="shorter than it is"),
        pytest.param(patch(KEY, 9, (4, b"X")), id="longer than it is"),
        pytest.param(patch(KEY, 8, (4, b"X"), header=b"heaD"), id="another header"),
        pytest.param(whole(KEY, HEADER), id="expected absent"),
    ],
)
def test_a_key_that_is_not_as_expected_refuses_the_whole_commit(store: OnlineStore, claim: Claim, wrong: StateWrite) -> None:
    store.commit(move(claim, 0, 1, whole(KEY, b"headaaaa"), whole(OTHER, HEADER)))
    before = store.read([KEY, OTHER, KEYS.offset(VIEW, SOURCE, 0)])
    answer = store.commit(move(claim, 1, 2, patch(OTHER, 4, (4, b"rows")), wrong))
    assert isinstance(answer, Refused)
    assert (answer.reason, answer.keys) == ("mismatch", (1,))
    assert store.read([KEY, OTHER, KEYS.offset(VIEW, SOURCE, 0)]) == before, "nothing is written before a refusal"


def test_expired_keys_are_named_and_the_commit_succeeds_with_them_written_whole(store: OnlineStore, claim: Claim) -> None:
    third = KEYS.state("carrier", "DL", VIEW, SOURCE, None)
    store.commit(move(claim, 0, 1, whole(OTHER, b"headaaaa")))
    writes = (patch(KEY, 8, (8, b"new1")), patch(OTHER, 8, (4, b"XXXX")), patch(third, 12, (4, b"new2")))
    answer = store.commit(move(claim, 1, 2, *writes))
    assert isinstance(answer, Refused)
    assert answer.reason == "expired"
    assert answer.keys == (0, 2)
    assert store.read([KEY, OTHER, third]) == [None, b"headaaaa", None]
    assert at(store).offset == 1
    writes = (whole(KEY, b"headnew1"), writes[1], whole(third, b"headnew2"))
    assert isinstance(store.commit(move(claim, 1, 2, *writes)), Committed)
    assert store.read([KEY, OTHER, third]) == [b"headnew1", b"headXXXX", b"headnew2"]


@pytest.mark.parametrize(
    ("commit", "says"),
    [
        pytest.param(lambda c: move(c, 3, 2), "goes back", id="backwards"),
        pytest.param(lambda c: move(c, 0, 1, views=()), "moves no view", id="no view"),
        pytest.param(lambda c: move(c, 0, 1, views=(VIEW, VIEW)), "named twice", id="a view twice"),
        pytest.param(lambda c: move(c, 0, 1, whole(KEY, HEADER), whole(KEY, HEADER)), "writes a key twice", id="a key twice"),
        pytest.param(lambda c: move(c, 0, 1, patch(KEY, 4, (6, b"x"))), "leaves a hole", id="a hole"),
        pytest.param(lambda c: move(c, 0, 1, StateWrite(KEY, 4, HEADER, 1)), "neither", id="neither patches nor whole"),
        pytest.param(lambda c: move(c, 0, 1, patch(KEY, ANY, (0, b"x"), header=b"")), "written whole", id="a patch of any length"),
        pytest.param(lambda c: move(c, 0, 1, whole(KEY, b"x", ANY)), "expects no header", id="any length with a header"),
        pytest.param(
            lambda c: move(c, 0, 1, patch(KEY, 4, *[(4, b"x")] * (limits.PATCHES_PER_KEY + 1))), "whole", id="too many patches"
        ),
        pytest.param(
            lambda c: Commit(SOURCE, 0, c.token, (Advance(VIEW, 0, 1), Advance("then@1", 0, 2)), 1, Writes()),
            "share a running maximum",
            id="two destinations",
        ),
    ],
)
def test_a_commit_that_makes_no_sense_is_never_sent(store: OnlineStore, claim: Claim, commit, says: str) -> None:  # type: ignore[no-untyped-def]  # lambdas
    with pytest.raises(ValueError, match=says):
        store.commit(commit(claim))
    assert at(store).offset == 0


# -- reading, meta, dropping -------------------------------------------------------------------------------------------


def test_reading_nothing_is_nothing(store: OnlineStore) -> None:
    assert store.read([]) == []


def test_meta_documents_come_back(store: OnlineStore) -> None:
    assert store.get_meta("project") is None
    store.put_meta("project", b"{}")
    assert store.get_meta("project") == b"{}"


def test_members_hear_what_the_others_said_last_and_not_themselves(store: OnlineStore) -> None:
    assert store.share("trial", "a", b"1", 60_000, 8) == []
    assert store.share("trial", "b", b"\0\xff", 60_000, 8) == [b"1"]
    assert store.share("trial", "a", b"3", 60_000, 8) == [b"\0\xff"]
    assert store.share("other", "a", b"5", 60_000, 8) == []
    assert sorted(store.share("trial", "c", b"4", 60_000, 8)) == [b"\0\xff", b"3"]


def test_what_a_member_does_not_say_again_is_gone_after_its_life(store: OnlineStore) -> None:
    store.share("trial", "a", b"1", 60_000, 8)

    def heard() -> list[bytes]:
        if isinstance(store, MemoryOnlineStore):
            store._clock.advance(1_000)  # type: ignore[attr-defined]  # a clock by hand
        return store.share("trial", "b", b"2", 1, 8)

    until(lambda: not heard(), "what was said to be gone")
    if isinstance(store, RedisOnlineStore):
        until(lambda: not store._redis.exists(KEYS.shared("trial")), "the hash to go with the last of them")


def test_no_more_members_are_heard_than_was_said(store: OnlineStore) -> None:
    for member in "abc":
        store.share("trial", member, member.encode(), 60_000, 2)
    assert sorted(store.share("trial", "d", b"d", 60_000, 2)) == [b"a", b"b"]  # three would be others for nobody
    assert store.share("trial", "a", b"e", 60_000, 2) == [b"b"]
    assert sorted(store.share("trial", "d", b"d", 60_000, 2)) == [b"b", b"e"]


def test_a_dropped_view_takes_its_state_and_offsets_and_nothing_else(store: OnlineStore, claim: Claim) -> None:
    views = ("now@1", "not_now@0123456789", VIEW)
    for view in views[:2]:
        store.create_offsets(view, SOURCE, TOPIC, {0: 0})
    claim = store.claim(SOURCE, 0, views, TOPIC)
    keys = [KEYS.state("carrier", "UA", view, SOURCE, partition) for view in views for partition in (None, 3)]
    store.commit(move(claim, 0, 1, *(whole(key, HEADER) for key in keys), views=views))
    store.put_meta("project", b"{}")
    assert store.drop_view(VIEW) == 4
    assert store.read(keys) == [HEADER] * 4 + [None] * 2
    assert store.visible(VIEW, SOURCE, 0) == []
    assert len(store.visible(views[0], SOURCE, 0)) == 1
    assert store.get_meta("project") == b"{}"


def test_a_view_that_is_dropped_to_begin_anew_refuses_commits_and_claims_until_it_has_new_offsets(store: OnlineStore, claim: Claim) -> None:
    store.commit(move(claim, 0, 1, whole(KEY, b"headaaaa")))
    for _ in range(2):                                            # cut short, it is run again
        assert store.drop_view(VIEW, for_good=False) in (2, 0)
        assert refusal(store.commit(move(claim, 1, 2))) == "dropped"
        with pytest.raises(BeingRebuiltError, match="featureflow rebuild now"):
            store.claim(SOURCE, 0, [VIEW], TOPIC)
    assert store.read([KEY]) == [None]
    assert store.create_offsets(VIEW, SOURCE, TOPIC, {0: 0}) == [0]
    assert store.create_offsets(VIEW, SOURCE, TOPIC, {0: 0}) == []
    assert refusal(store.commit(move(claim, 0, 1))) == "fenced"
    assert store.claim(SOURCE, 0, [VIEW], TOPIC).records[Track(VIEW)].offset == 0


def test_a_value_that_replaces_whatever_is_there_is_written_with_the_state_or_not_at_all(store: OnlineStore, claim: Claim) -> None:
    plain = KEYS.published("carrier", "UA", "now")
    for number, value in enumerate((b"{}", b'{"longer": 1}', b"[]")):
        assert isinstance(store.commit(move(claim, number, number + 1, any_length(plain, value))), Committed)
        assert store.read([plain]) == [value]
    assert refusal(store.commit(move(claim, 3, 4, whole(KEY, HEADER, expected=7), any_length(plain, b"new")))) == "expired"
    assert refusal(store.commit(move(claim, 2, 4, any_length(plain, b"new")))) == "offset"
    assert store.read([plain]) == [b"[]"]
    assert isinstance(store.commit(move(claim, 3, 4, any_length(plain, b""))), Committed)
    assert store.read([plain]) == [None]


def test_values_that_no_live_version_published_are_withdrawn(store: OnlineStore, claim: Claim) -> None:
    old, new = (b'{"view":"now@%b","n":1}' % version for version in (b"0123456789", b"9876543210"))
    keys = [KEYS.published("carrier", entity_id, "now") for entity_id in ("UA", "a:b{c}\r\n\0*", "DL")]
    keys.append(KEYS.published("carrier", "UA", "not_now"))
    values = [old, new, new, b'{"view":"not_now@0123456789","n":1}']
    store.commit(move(claim, 0, 1, whole(KEY, HEADER), *map(any_length, keys, values)))
    assert store.withdraw([VIEW, "now@9876543210", "not_now@0123456789"]) == 0
    assert store.withdraw(["now@9876543210", "not_now@0123456789"]) == 1
    assert store.read(keys) == [None, *values[1:]]
    store.drop_view("now@9876543210", for_good=True)
    assert store.read(keys) == [None, *values[1:]], "another version may have published them since"
    store.drop_view("now@9876543210", for_good=False)
    assert store.read(keys) == [None, None, None, values[3]]
    assert store.withdraw([]) == 1
    assert store.read([KEY, keys[3]]) == [HEADER, None]


def test_a_record_of_another_format_names_the_rebuild_and_is_rebuilt(store: OnlineStore, claim: Claim) -> None:
    _put(store, KEYS.offset(VIEW, SOURCE, 0), b"FFo1" + b"0" * 140)
    with pytest.raises(OffsetMissingError, match="format.*featureflow rebuild now"):
        store.claim(SOURCE, 0, [VIEW], TOPIC)
    with pytest.raises(OffsetMissingError, match="format.*featureflow rebuild now"):
        store.offsets(SOURCE, 0, [VIEW])
    store.drop_view(VIEW, for_good=False)
    store.create_offsets(VIEW, SOURCE, TOPIC, {0: 0})
    assert store.claim(SOURCE, 0, [VIEW], TOPIC).records[Track(VIEW)].offset == 0


def _lose(store: OnlineStore, key: bytes) -> None:
    if isinstance(store, MemoryOnlineStore):
        store.damage(key, None)
    else:
        assert isinstance(store, RedisOnlineStore)
        store._redis.delete(key)


def _put(store: OnlineStore, key: bytes, value: bytes) -> None:
    if isinstance(store, MemoryOnlineStore):
        store.damage(key, value)
    else:
        assert isinstance(store, RedisOnlineStore)
        store._redis.set(key, value)


def test_a_store_says_what_it_is(store: OnlineStore) -> None:
    assert store.ping().split()[0] in ("memory", "Valkey", "Redis")
