"""Which states are kept while the server tells of changes, and how many."""

from __future__ import annotations

from collections.abc import Sequence

from featureflow.store.online.beside import CALM, END_BYTES, LOOK, LOOKED_AT, STATE_BYTES, Kept, States

KEYS = [b"state%d" % i for i in range(10)]
READS = LOOK * (CALM + 1)  # after which what did not change is kept


def read(states: States, store: dict[bytes, bytes | None], keys: list[bytes], times: int = 1) -> tuple[list[bytes], list[bytes]]:
    """As a reader does; what was asked for the last time, to be told of and as it is."""
    told: Sequence[bytes] = ()
    others: Sequence[bytes] = ()
    for _ in range(times):
        told, others = states.unknown(keys, tell=False)
        states.put(told, [store[key] for key in told])
        values = [store[key] for key in others]
        if others:
            states.look(others, values)
        assert states.beside(keys, others, values) == [store[key] for key in keys]
    return list(told), list(others)


def test_what_does_not_change_from_read_to_read_is_kept_and_after_a_change_it_is_new() -> None:
    states, store = States(), dict[bytes, bytes | None](dict.fromkeys(KEYS, b"x" * 100)) | {KEYS[0]: None}
    assert read(states, store, KEYS, READS) == ([], KEYS)
    assert read(states, store, KEYS[:4]) == (KEYS[:4], [])
    assert read(states, store, KEYS[3:5]) == (KEYS[4:5], [])
    assert read(states, store, KEYS[:5]) == ([], [])
    store[KEYS[2]] = b"y"
    states.drop(KEYS[2])
    states.drop(b"not kept")
    assert read(states, store, KEYS[:5], READS - LOOK) == ([], KEYS[2:3])
    assert read(states, store, KEYS[:5], LOOK + 1) == (KEYS[2:3], [])
    assert states.unknown([b"other", KEYS[1]], tell=True) == ([b"other"], ())


def test_what_changes_between_reads_is_not_kept() -> None:
    states, store = States(), dict[bytes, bytes | None](dict.fromkeys(KEYS, b""))
    for n in range(3 * READS):
        store[KEYS[1]] = b"%d" % n + b"x" * (END_BYTES - len(b"%d" % n))  # within its end
        read(states, store, [KEYS[1], KEYS[3]])
    assert (states.beside(KEYS[1:2], (), ()), states.beside(KEYS[3:4], (), ())) == (None, [b""])


def test_values_are_those_that_were_just_read_or_are_kept_and_none_where_one_is_neither() -> None:
    states = States()
    states.put(KEYS[:2], [b"kept", None])
    assert states.beside([KEYS[1], KEYS[0], KEYS[1]], (), ()) == [None, b"kept", None]
    assert states.beside([KEYS[0], KEYS[5]], KEYS[5:6], [b"read"]) == [b"kept", b"read"]
    assert states.beside([KEYS[0], KEYS[6]], KEYS[5:6], [b"read"]) is None
    states.drop(KEYS[1])
    assert states.beside(KEYS[:2], (), ()) is None


def test_bytes_are_bounded_and_what_came_first_goes_first() -> None:
    states = States(3 * (STATE_BYTES + 100))
    states.put(KEYS[:3], [b"x" * 100] * 3)
    states.put(KEYS[:1], [b"y" * 100])  # in place of what was kept
    assert (len(states), states.bytes) == (3, 3 * (STATE_BYTES + 100))
    states.put(KEYS[3:4], [b"x" * 50])
    assert states.beside([KEYS[2], KEYS[0], KEYS[3]], (), ()) == [b"x" * 100, b"y" * 100, b"x" * 50]
    assert states.beside(KEYS[1:2], (), ()) is None
    assert states.bytes == 2 * (STATE_BYTES + 100) + STATE_BYTES + 50
    states.put(KEYS[4:5], [b"x" * 10_000])
    assert (len(states), states.bytes) == (0, 0)


def test_how_many_are_looked_at_is_bounded() -> None:
    states, store = States(), dict[bytes, bytes | None](dict.fromkeys(KEYS, b""))
    read(states, store, KEYS, READS)
    for first in range(0, LOOKED_AT, 1000):
        many = [b"%d" % i for i in range(first, first + 1000)]
        for _ in range(LOOK):
            states.look(many, [b""] * 1000)
    assert read(states, store, KEYS) == ([], KEYS), "what was to be kept is forgotten with the rest"


def test_states_are_forgotten_with_their_changes_and_with_the_connection() -> None:
    kept = Kept()
    kept.begin()
    kept.states.put(KEYS, [b"x"] * len(KEYS))
    kept.changed(KEYS[:1])
    assert kept.states.beside(KEYS[1:], (), ()) is not None
    assert kept.states.beside(KEYS[:1], (), ()) is None
    kept.end()
    assert (len(kept.states), kept.states.bytes) == (0, 0)
