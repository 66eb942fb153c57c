"""Claim and commit, explored exhaustively: every order in which two workers, lost replies, duplicates in flight, crashes and
a store that loses its last second can meet.

The model is small on purpose: one partition of a few events, one entity whose rows stand in the order in which they were first
folded (so that a patch is a position, and a patch of other rows is wrong), and the rules of ``lua/commit.lua`` and of
``ingest.commit``, each of which can be taken away. In every state that can be reached, the rows must be exactly those of the
events below the offset. Without any one of the guards, some state is wrong.

    store     (token, offset, rows)                      rows: ((tile, count), ...)
    worker    None | (token, offset, rows) | (token, offset, rows, message awaited)
    message   (token, from, to, rows expected, patches)  in flight; delivered, lost, or delivered and still in flight
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import pytest

Rows = tuple[tuple[int, int], ...]

LOG = (1, 0, 1)                            # the tile of each event; rows of one batch are appended in tile order, so that
                                           # a batch of two lays rows out otherwise than two batches of one


@dataclass(frozen=True)
class Rules:
    log: tuple[int, ...] = LOG
    token: bool = True                     # commit compares the token
    fresh: bool = True                     # a claim's token is fresh; else it counts on from the stored one
    offset: bool = True                    # commit compares the offset
    length: bool = True                    # commit compares the number of rows
    drop: bool = True                      # rows are dropped with the token, and read again
    atomic: bool = True                    # state and offset move together (offset in a call of its own: they do not)


class Message(NamedTuple):
    token: int
    start: int
    to: int
    expected: int
    patches: tuple[tuple[int, tuple[int, int]], ...]


class Worker(NamedTuple):
    token: int
    offset: int
    rows: Rows
    awaited: Message | None = None


class State(NamedTuple):
    store: tuple[int, int, Rows]
    durable: tuple[tuple[int, int, Rows], ...]   # what the store may fall back to
    workers: tuple[Worker | None, ...]
    flying: frozenset[Message]
    claims: int = 0
    losses: int = 0                        # replies lost, duplicates and crashes so far
    rollbacks: int = 0


def fold(log: tuple[int, ...], rows: Rows, start: int, to: int) -> tuple[Rows, tuple[tuple[int, tuple[int, int]], ...]]:
    """The rows after events ``start`` to ``to``, and the patches that make them."""
    counts, order = dict(rows), [tile for tile, _ in rows]
    touched = sorted(set(log[start:to]))
    for tile in touched:
        if tile not in counts:
            order.append(tile)
        counts[tile] = counts.get(tile, 0) + log[start:to].count(tile)
    after = tuple((tile, counts[tile]) for tile in order)
    return after, tuple((order.index(tile), (tile, counts[tile])) for tile in touched)


def apply(rules: Rules, store: tuple[int, int, Rows], message: Message) -> tuple[int, int, Rows] | None:
    """The store after the message, or None: refused."""
    token, offset, rows = store
    if rules.token and token != message.token:
        return None
    if rules.offset and offset != message.start:
        return None
    if rules.length and len(rows) != message.expected:
        return None
    patched = list(rows)
    for position, row in message.patches:
        patched += [(-1, 0)] * (position + 1 - len(patched))
        patched[position] = row
    return token, message.to, tuple(patched)


def steps(rules: Rules, state: State, bounds: Bounds) -> Iterator[State]:
    store, workers = state.store, state.workers

    def put(i: int, worker: Worker | None) -> State:
        return state._replace(workers=(*workers[:i], worker, *workers[i + 1 :]))

    def claimed(i: int, kept: Rows | None = None) -> State:
        token = state.claims + 1 if rules.fresh else store[0] + 1
        now = (token, *store[1:])
        rows = store[2] if rules.drop or kept is None else kept
        taken = put(i, Worker(token, store[1], rows))
        return taken._replace(store=now, durable=(*state.durable, now), claims=state.claims + 1)

    for i, worker in enumerate(workers):
        if worker is None:
            if state.claims < bounds.claims:
                yield claimed(i)
            continue
        if state.losses < bounds.losses:
            yield put(i, None)._replace(losses=state.losses + 1)                             # crash
        if worker.awaited is None:
            for to in range(worker.offset + 1, min(worker.offset + 2, len(rules.log)) + 1):        # batches of one and two
                rows, patches = fold(rules.log, worker.rows, worker.offset, to)
                message = Message(worker.token, worker.offset, to, len(worker.rows), patches)
                yield put(i, Worker(worker.token, to, rows, message))._replace(flying=state.flying | {message})
        elif state.losses < bounds.losses:                                                   # no reply
            lost = state._replace(losses=state.losses + 1)
            message = worker.awaited
            mine = store[0] == worker.token or not rules.token
            if mine and store[1] == message.to:
                yield lost._replace(workers=put(i, worker._replace(awaited=None)).workers)
            elif mine and store[1] == message.start:
                yield lost._replace(flying=state.flying | {message})
            elif state.claims < bounds.claims:
                yield claimed(i, worker.rows)._replace(losses=state.losses + 1)

    for message in state.flying:
        after = apply(rules, store, message)
        rest = state._replace(flying=state.flying - {message})
        if after is not None:
            halves = [after] if rules.atomic else [(store[0], store[1], after[2]), after]
            rest = rest._replace(store=after, durable=(*state.durable, *halves))
            yield rest                                                                       # applied, the reply is lost
            if state.losses < bounds.losses:                                                 # applied, and a copy flies on
                yield rest._replace(flying=state.flying, losses=state.losses + 1)
        for i, worker in enumerate(workers):
            if worker is not None and worker.awaited == message:
                if after is not None:
                    told = worker._replace(awaited=None)
                    yield rest._replace(workers=(*workers[:i], told, *workers[i + 1 :]))
                elif state.claims < bounds.claims:                                           # refused: drop, claim, read
                    yield claimed(i, worker.rows)._replace(flying=rest.flying)
        if after is None:
            yield rest

    if state.rollbacks < bounds.rollbacks:                                                   # the last second is lost
        for i, before in enumerate(state.durable):
            if before != store:
                yield state._replace(store=before, durable=state.durable[: i + 1], rollbacks=state.rollbacks + 1)


class Bounds(NamedTuple):
    claims: int
    losses: int
    rollbacks: int


def explore(rules: Rules, bounds: Bounds, workers: int = 2) -> tuple[bool, bool, int]:
    """(every state right, some state at the end of the log, states seen)."""
    truth = [dict(fold(rules.log, (), 0, offset)[0]) for offset in range(len(rules.log) + 1)]
    first = State((0, 0, ()), ((0, 0, ()),), (None,) * workers, frozenset())
    seen, queue, ended = {first}, deque([first]), False
    while queue:
        for state in steps(rules, queue.popleft(), bounds):
            state = state._replace(durable=tuple(dict.fromkeys(state.durable)))
            if state in seen:
                continue
            _, offset, rows = state.store
            if len(dict(rows)) != len(rows) or dict(rows) != truth[offset]:
                return False, ended, len(seen)
            ended = ended or offset == len(rules.log)
            seen.add(state)
            queue.append(state)
    return True, ended, len(seen)


@pytest.mark.parametrize(
    "bounds", [Bounds(claims=3, losses=1, rollbacks=1), Bounds(claims=2, losses=2, rollbacks=1), Bounds(claims=2, losses=1, rollbacks=2)]
)
def test_no_order_of_faults_makes_state_and_offset_disagree(bounds: Bounds) -> None:
    right, ended, seen = explore(Rules(), bounds)
    assert right
    assert ended, "the end of the log is never reached, so nothing was shown"
    assert seen > 1_000


@pytest.mark.parametrize(
    ("rules", "bounds"),
    [
        pytest.param(Rules(token=False), Bounds(2, 0, 1), id="no token"),
        pytest.param(Rules(offset=False, log=(1, 1, 1, 0)), Bounds(1, 2, 0), id="no offset"),
        pytest.param(Rules(fresh=False), Bounds(4, 0, 1), id="a token that counts on"),
        pytest.param(Rules(drop=False), Bounds(3, 0, 1), id="rows kept across a claim"),
        pytest.param(Rules(atomic=False), Bounds(1, 0, 1), id="offset in a call of its own"),
    ],
)
def test_without_a_guard_some_order_of_faults_is_wrong(rules: Rules, bounds: Bounds) -> None:
    right, _, _ = explore(rules, bounds)
    assert not right
