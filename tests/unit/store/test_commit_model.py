"""Claim and commit, explored exhaustively: every order in which two workers, lost replies, duplicates in flight, crashes, and buckets
that lose their last second, each on its own, can meet.

The model is small on purpose: one partition of a few events, one entity in each bucket, whose rows stand in the order in which they
were first folded (so that a patch is a position, and a patch of other rows is wrong), and the rules of ``lua/claim.lua``,
``lua/commit.lua``, ``ingest.claim`` and ``ingest.commit``, each of which can be taken away. In every state that can be reached, the
rows of each bucket must be exactly those of its events below its offset. Without any one of the guards, some state is wrong.

    bucket    (token, offset, rows)                      rows: ((tile, count), ...)
    worker    None, or a token, for each bucket the offset and rows as it believes them to be (None: yet to be claimed), and
              the messages whose answers it awaits
    message   (bucket, token, from, to, rows expected, patches)  in flight; delivered, lost, or delivered and still in flight

A worker claims bucket by bucket. It folds from where some buckets stand, up to the log's end or to where others stand, which these
join there; each of them gets a commit of its own, and some more may be sent before it is answered. After any refusal it drops
everything and claims again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, TypeVar

import pytest
import redis

from featureflow.clock import NO_TIME_US, ManualClock
from featureflow.define.spec import DEFAULT_PROJECT
from featureflow.store.keys import Keys
from featureflow.store.online import record
from featureflow.store.online.memory import MemoryOnlineStore
from featureflow.store.online.protocol import Advance, Commit, Committed, OffsetRecord, OnlineStore
from featureflow.store.online.redis import RedisOnlineStore
from featureflow.store.online.writes import Patch, StateWrite, Writes

T = TypeVar("T")
Rows = tuple[tuple[int, int], ...]
Bucket = tuple[int, int, Rows]
Patches = tuple[tuple[int, tuple[int, int]], ...]
Event = tuple[int, int]                    # bucket, tile

ONE = ((0, 1), (0, 0), (0, 1))             # rows of one batch are appended in tile order, so that a batch of two lays rows out
                                           # otherwise than two batches of one
TWO = ((0, 1), (0, 0), (1, 1))
TILE = ((0, 1), (0, 1), (0, 1), (0, 0))
MIXED = ((0, 1), (1, 1), (0, 0))


@dataclass(frozen=True)
class Rules:
    log: tuple[Event, ...] = ONE
    depth: int = 1                         # one more is sent while fewer answers than this are awaited
    token: bool = True                     # commit compares the token
    fresh: bool = True                     # a claim's token is fresh; else it counts on from the stored one
    offset: bool = True                    # commit compares the offset
    length: bool = True                    # commit compares the number of rows
    drop: bool = True                      # rows are dropped with the token, and read again
    atomic: bool = True                    # state and offset move together (offset in a call of its own: they do not)
    own: bool = True                       # each bucket has an offset of its own (else all are taken to stand where the first does,
                                           # and only its offset is compared)

    @property
    def buckets(self) -> int:
        return 1 + max(bucket for bucket, _ in self.log)


class Bounds(NamedTuple):
    claims: int
    losses: int                            # replies lost, duplicates and crashes
    rollbacks: int                         # of one bucket each


class Message(NamedTuple):
    bucket: int
    token: int
    start: int
    to: int
    expected: int
    patches: Patches


class Worker(NamedTuple):
    token: int
    held: tuple[tuple[int, Rows] | None, ...]
    awaited: tuple[Message, ...] = ()


class State(NamedTuple):
    store: tuple[Bucket, ...]
    durable: tuple[tuple[Bucket, ...], ...]    # of each bucket: what it may fall back to
    workers: tuple[Worker | None, ...]
    flying: frozenset[Message]
    claims: int = 0
    losses: int = 0
    rollbacks: int = 0


@cache
def fold(log: tuple[Event, ...], bucket: int, rows: Rows, start: int, to: int) -> tuple[Rows, Patches]:
    """The bucket's rows after events ``start`` to ``to``, and the patches that make them."""
    counts, order = dict(rows), [tile for tile, _ in rows]
    tiles = [tile for where, tile in log[start:to] if where == bucket]
    touched = sorted(set(tiles))
    for tile in touched:
        if tile not in counts:
            order.append(tile)
        counts[tile] = counts.get(tile, 0) + tiles.count(tile)
    after = tuple((tile, counts[tile]) for tile in order)
    return after, tuple((order.index(tile), (tile, counts[tile])) for tile in touched)


def apply(rules: Rules, bucket: Bucket, message: Message) -> Bucket | None:
    """The bucket after the message, or None: refused."""
    token, offset, rows = bucket
    if rules.token and token != message.token:
        return None
    if rules.offset and (rules.own or message.bucket == 0) and offset != message.start:
        return None
    if rules.length and len(rows) != message.expected:
        return None
    patched = list(rows)
    for position, row in message.patches:
        patched += [(-1, 0)] * (position + 1 - len(patched))
        patched[position] = row
    return token, message.to, tuple(patched)


def changed(items: tuple[T, ...], at: int, item: T) -> tuple[T, ...]:
    return (*items[:at], item, *items[at + 1 :])


def begun(rules: Rules, bounds: Bounds, state: State, i: int) -> Iterator[State]:
    """Worker ``i`` begins to claim, whatever it held before. With a fresh token: no other claim has it."""
    if state.claims < bounds.claims:
        kept = state.workers[i]
        held: tuple[tuple[int, Rows] | None, ...] = (None,) * len(state.store)
        if not rules.drop and kept is not None:     # rows outlive the token; that they are is told by an offset of -1
            held = tuple(None if one is None else (-1, one[1]) for one in kept.held)
        yield state._replace(workers=changed(state.workers, i, Worker(state.claims + 1, held)), claims=state.claims + 1)


def claimed(rules: Rules, state: State, i: int, worker: Worker, bucket: int) -> State:
    """Its next bucket: the token is put there, offset and rows are read."""
    stored, offset, rows = state.store[bucket]
    token = worker.token if rules.fresh else stored + 1
    now = (token, offset, rows)
    one = worker.held[bucket]
    if not rules.own and bucket > 0 and worker.held[0] is not None:
        offset = worker.held[0][0]
    taken = worker._replace(token=token, held=changed(worker.held, bucket, (offset, rows if one is None else one[1])))
    return state._replace(
        store=changed(state.store, bucket, now),
        durable=changed(state.durable, bucket, (*state.durable[bucket], now)),
        workers=changed(state.workers, i, taken),
    )


def sent(rules: Rules, state: State, i: int, worker: Worker) -> Iterator[State]:
    """From where some buckets stand, one event or two, a message to each of these buckets."""
    stands = sorted({one[0] for one in worker.held if one is not None})
    for place, start in enumerate(stands):
        until = stands[place + 1] if place + 1 < len(stands) else len(rules.log)
        for to in range(start + 1, min(start + 2, until) + 1):
            held, messages = worker.held, []
            for bucket, one in enumerate(worker.held):
                if one is not None and one[0] == start:
                    rows, patches = fold(rules.log, bucket, one[1], start, to)
                    messages.append(Message(bucket, worker.token, start, to, len(one[1]), patches))
                    held = changed(held, bucket, (to, rows))
            waiting = changed(state.workers, i, worker._replace(held=held, awaited=(*worker.awaited, *messages)))
            yield state._replace(workers=waiting, flying=state.flying.union(messages))


def told(state: State, i: int, worker: Worker, message: Message) -> State:
    """It knows that this one was applied."""
    awaited = tuple(other for other in worker.awaited if other != message)
    return state._replace(workers=changed(state.workers, i, worker._replace(awaited=awaited)))


def unanswered(rules: Rules, bounds: Bounds, state: State, i: int, worker: Worker) -> Iterator[State]:
    """It gives up on an answer, and reads token and offset instead."""
    lost = state._replace(losses=state.losses + 1)
    for message in worker.awaited:
        token, offset, _ = state.store[message.bucket]
        mine = token == message.token or not rules.token
        if mine and offset >= message.to:
            yield told(lost, i, worker, message)
        elif mine and offset == message.start:
            yield lost._replace(flying=state.flying | {message})
        else:
            yield from begun(rules, bounds, lost, i)


def delivered(rules: Rules, bounds: Bounds, state: State, message: Message) -> Iterator[State]:
    after, rest = apply(rules, state.store[message.bucket], message), state._replace(flying=state.flying - {message})
    if after is not None:
        before = state.store[message.bucket]
        halves = (after,) if rules.atomic else ((before[0], before[1], after[2]), after)
        rest = rest._replace(
            store=changed(rest.store, message.bucket, after),
            durable=changed(rest.durable, message.bucket, (*rest.durable[message.bucket], *halves)),
        )
        if state.losses < bounds.losses:                                                     # a copy flies on
            yield rest._replace(flying=state.flying, losses=state.losses + 1)
    yield rest                                                                               # nobody hears of it
    for i, worker in enumerate(state.workers):
        if worker is not None and message in worker.awaited:
            if after is not None:
                yield told(rest, i, worker, message)
            else:                                                                            # refused: drop, claim, read
                yield from begun(rules, bounds, rest, i)


def steps(rules: Rules, bounds: Bounds, state: State) -> Iterator[State]:
    for i, worker in enumerate(state.workers):
        if worker is None:
            yield from begun(rules, bounds, state, i)
            continue
        if state.losses < bounds.losses:
            yield state._replace(workers=changed(state.workers, i, None), losses=state.losses + 1)    # crash
            if worker.awaited:
                yield from unanswered(rules, bounds, state, i, worker)
        unclaimed = [bucket for bucket, one in enumerate(worker.held) if one is None or one[0] < 0]
        if unclaimed:
            yield claimed(rules, state, i, worker, unclaimed[0])
        elif len(worker.awaited) < rules.depth:
            yield from sent(rules, state, i, worker)
    for message in state.flying:
        yield from delivered(rules, bounds, state, message)
    if state.rollbacks < bounds.rollbacks:                                                   # a bucket's last second is lost
        for bucket, states in enumerate(state.durable):
            for place, before in enumerate(states):
                if before != state.store[bucket]:
                    yield state._replace(
                        store=changed(state.store, bucket, before),
                        durable=changed(state.durable, bucket, states[: place + 1]),
                        rollbacks=state.rollbacks + 1,
                    )


def canonical(bounds: Bounds, state: State) -> State:
    """The same for everything that can still happen: which worker is which does not matter, nor what nobody can fall back to."""
    if state.rollbacks == bounds.rollbacks:
        durable: tuple[tuple[Bucket, ...], ...] = ((),) * len(state.store)
    else:
        durable = tuple(tuple(dict.fromkeys(states)) for states in state.durable)
    return state._replace(durable=durable, workers=tuple(sorted(state.workers, key=hash)))


class Found(NamedTuple):
    right: bool                            # every state
    ended: bool                            # some state has every bucket at the end of the log
    states: int


def explore(rules: Rules, bounds: Bounds, workers: int = 2) -> Found:
    """Breadth first, to the first state that is wrong or to the last there is."""
    n, end = rules.buckets, len(rules.log)
    truth = {(b, offset): dict(fold(rules.log, b, (), 0, offset)[0]) for b in range(n) for offset in range(end + 1)}
    empty: Bucket = (0, 0, ())
    first = State((empty,) * n, ((empty,),) * n, (None,) * workers, frozenset())
    seen, queue, ended = {first}, deque([first]), False
    while queue:
        for state in steps(rules, bounds, queue.popleft()):
            state = canonical(bounds, state)
            if state in seen:
                continue
            seen.add(state)
            for bucket, (_, offset, rows) in enumerate(state.store):
                if len(dict(rows)) != len(rows) or dict(rows) != truth[bucket, offset]:
                    return Found(False, ended, len(seen))
            ended = ended or all(offset == end for _, offset, _ in state.store)
            queue.append(state)
    return Found(True, ended, len(seen))


@pytest.mark.parametrize(
    ("log", "bounds"),
    [
        pytest.param(ONE, Bounds(claims=3, losses=1, rollbacks=1), id="one bucket, three claims"),
        pytest.param(ONE, Bounds(claims=2, losses=2, rollbacks=1), id="one bucket, two losses"),
        pytest.param(ONE, Bounds(claims=2, losses=1, rollbacks=2), id="one bucket, two rollbacks"),
        pytest.param(TWO, Bounds(claims=2, losses=0, rollbacks=2), id="two buckets, two rollbacks"),
        pytest.param(MIXED, Bounds(claims=2, losses=1, rollbacks=1), id="two buckets, a loss and a rollback"),
    ],
)
def test_no_order_of_faults_makes_state_and_offset_disagree(log: tuple[Event, ...], bounds: Bounds) -> None:
    found = explore(Rules(log), bounds)
    print(f"{found.states:,} states of {bounds} over {log}")
    assert found.right
    assert found.ended, "the end of the log is never reached, so nothing was shown"
    assert found.states > 1_000


@pytest.mark.parametrize(
    "bounds",
    [
        pytest.param(Bounds(claims=2, losses=2, rollbacks=1), id="two losses"),
        pytest.param(Bounds(claims=2, losses=1, rollbacks=2), id="two rollbacks"),
    ],
)
def test_nor_where_commits_are_sent_before_the_one_before_them_is_answered(bounds: Bounds) -> None:
    found, waiting = explore(Rules(depth=2), bounds), explore(Rules(), bounds)
    print(f"{found.states:,} states of {bounds}, {waiting.states:,} where each is waited for")
    assert found.right
    assert found.ended
    assert found.states > waiting.states


@pytest.mark.parametrize(
    ("rules", "bounds"),
    [
        pytest.param(Rules(TILE, offset=False, depth=2), Bounds(1, 0, 0), id="no offset, and one is sent behind another"),
        pytest.param(Rules(token=False), Bounds(2, 0, 1), id="no token"),
        pytest.param(Rules(TILE, offset=False), Bounds(1, 2, 0), id="no offset"),
        pytest.param(Rules(fresh=False), Bounds(4, 0, 1), id="a token that counts on"),
        pytest.param(Rules(drop=False), Bounds(3, 0, 1), id="rows kept across a claim"),
        pytest.param(Rules(atomic=False), Bounds(1, 0, 1), id="offset in a call of its own"),
        pytest.param(Rules((*ONE, (1, 0)), token=False), Bounds(2, 0, 1), id="no token, two buckets"),
        pytest.param(Rules(TWO, atomic=False), Bounds(1, 0, 1), id="offset in a call of its own, two buckets"),
        pytest.param(Rules(MIXED, own=False), Bounds(2, 0, 1), id="one offset for two buckets"),
    ],
)
def test_without_a_guard_some_order_of_faults_is_wrong(rules: Rules, bounds: Bounds) -> None:
    found = explore(rules, bounds)
    print(f"{found.states:,} states of {bounds}")
    assert not found.right


# -- the stores do what the model does ---------------------------------------------------------------------------------

VIEW, SOURCE, TOPIC, HEADER = "now@0123456789", "trip", "topic-1", b"head"
OFFSET, STATE = Keys(DEFAULT_PROJECT).offset(VIEW, SOURCE, 0), Keys(DEFAULT_PROJECT).state("rider", "ada", VIEW, SOURCE, None)
ROW_BYTES = 8


def meetings() -> list[tuple[Bucket, Message]]:
    """Every message that meets a bucket in some state, in an exploration, and those states."""
    rules, bounds, met = Rules(), Bounds(claims=2, losses=2, rollbacks=1), dict[tuple[Bucket, Message], None]()
    first = State(((0, 0, ()),), (((0, 0, ()),),), (None, None), frozenset())
    seen, queue = {first}, deque([first])
    while queue:
        now = queue.popleft()
        met |= dict.fromkeys((now.store[message.bucket], message) for message in now.flying)
        for state in steps(rules, bounds, now):
            state = canonical(bounds, state)
            if state not in seen:
                seen.add(state)
                queue.append(state)
    return list(met)


def token_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


def bytes_of(rows: Rows) -> bytes:
    return b"".join(row_of(row) for row in rows)


def row_of(row: tuple[int, int]) -> bytes:
    return row[0].to_bytes(4, "big") + row[1].to_bytes(4, "big")


def keys_of(bucket: Bucket) -> dict[bytes, bytes]:
    """What a store holds that is in this state."""
    token, offset, rows = bucket
    held = {OFFSET: record.encode(OffsetRecord(token_of(token), offset, -1, NO_TIME_US, 0, TOPIC))}
    return held | ({STATE: HEADER + bytes_of(rows)} if rows else {})


def commit_of(message: Message) -> Commit:
    if message.expected:
        patches = tuple(Patch(len(HEADER) + ROW_BYTES * position, row_of(row)) for position, row in message.patches)
        writes = [StateWrite(STATE, len(HEADER) + ROW_BYTES * message.expected, HEADER, 0, patches=patches)]
    else:
        writes = [StateWrite(STATE, 0, b"", 0, whole=HEADER + bytes_of(tuple(row for _, row in message.patches)))]
    advance = Advance(VIEW, message.start, message.to)
    return Commit(SOURCE, 0, token_of(message.token), (advance,), 0, Writes.of(writes if message.patches else []))


def check_store(online: OnlineStore, put: Callable[[dict[bytes, bytes]], None]) -> None:
    pairs = meetings()
    outcomes = set()
    for bucket, message in pairs:
        put(keys_of(bucket))
        after = apply(Rules(), bucket, message)
        answer = online.commit(commit_of(message))
        assert isinstance(answer, Committed) is (after is not None), (bucket, message, answer)
        token, offset, rows = bucket if after is None else after
        held, state = online.read([OFFSET, STATE])
        assert held is not None
        stored = record.decode(held)
        assert (stored.token, stored.offset, stored.dirty) == (token_of(token), offset, -1), (bucket, message)
        assert (state or HEADER) == HEADER + bytes_of(rows), (bucket, message)
        outcomes.add("applied" if after is not None else getattr(answer, "reason", ""))
    assert outcomes >= {"applied", "fenced", "offset"}
    assert len(pairs) > 100


def test_the_store_in_memory_does_what_the_model_does_with_every_message_that_meets_it() -> None:
    online = MemoryOnlineStore(ManualClock(1_000_000))

    def put(held: dict[bytes, bytes]) -> None:
        for key in (OFFSET, STATE):
            online.damage(key, held.get(key))

    check_store(online, put)


def test_a_server_does_what_the_model_does_with_every_message_that_meets_it(embedded_redis_url: str) -> None:
    with closing(RedisOnlineStore(embedded_redis_url)) as online, redis.Redis.from_url(embedded_redis_url) as client:

        def put(held: dict[bytes, bytes]) -> None:
            client.flushdb()
            client.mset(held)

        check_store(online, put)
