"""What is held and what is adrift, for both consumers."""

from __future__ import annotations

from structlog.testing import capture_logs

from featureflow.clock import ManualClock
from featureflow.ingest.holding import FIRST_WAIT_US, LONGEST_WAIT_US, Holding
from featureflow.store.log.memory import MemoryConsumer, MemoryLog
from featureflow.store.log.protocol import Assignment, Partition

ONE, TWO = Partition("trip", 0), Partition("trip", 1)


def consumer() -> MemoryConsumer:
    log = MemoryLog(ManualClock())
    log.ensure_topic("trips", 2)
    member = log.consumer("group", {"trip": "trips"})
    member.poll(timeout_s=0.0, max_records=1, max_bytes=1)
    return member


def test_what_was_assigned_is_due_at_once_and_held_once_it_was_taken() -> None:
    gone = list[Partition]()
    holding = Holding[str](ManualClock(), gone.append)
    holding.assign(Assignment(assigned=(ONE, TWO)))
    assert holding.due() == [ONE, TWO]
    holding.take(consumer(), ONE, "known", 5)
    assert (holding.held, list(holding.adrift)) == ({ONE: "known"}, [TWO])


def test_what_was_lost_is_forgotten_and_said() -> None:
    gone = list[Partition]()
    holding = Holding[str](ManualClock(), gone.append)
    holding.assign(Assignment(assigned=(ONE, TWO)))
    holding.take(consumer(), ONE, "known", 5)
    gone.clear()
    with capture_logs() as said:
        holding.assign(Assignment(lost=(ONE, TWO)))
    assert (holding.held, holding.adrift, gone) == ({}, {}, [ONE, TWO])
    assert [(line["event"], line["partitions"], line["held"]) for line in said] == [("lost", ["trip/0", "trip/1"], 0)]


def test_a_partition_that_was_lost_and_came_back_in_one_assignment_is_taken_anew() -> None:
    gone = list[Partition]()
    holding = Holding[str](ManualClock(), gone.append)
    holding.assign(Assignment(assigned=(ONE,)))
    holding.take(consumer(), ONE, "known", 5)
    holding.assign(Assignment(assigned=(ONE,), lost=(ONE,)))
    assert (holding.held, holding.due()) == ({}, [ONE])


def test_what_cannot_be_taken_is_tried_again_after_waits_that_grow_to_a_bound_for_all_alike() -> None:
    clock = ManualClock()
    holding = Holding[str](clock, lambda partition: None)
    holding.assign(Assignment(assigned=(ONE, TWO)))
    waits = []
    for _ in range(10):
        holding.put_off(ONE)
        assert holding.due() == []
        waits.append(holding.adrift[ONE].due_us - clock.now_us())
        clock.advance(waits[-1])
        assert holding.due() == [ONE, TWO]
    assert (waits[0], waits[-1]) == (FIRST_WAIT_US, LONGEST_WAIT_US)
    assert waits == sorted(waits)


def test_a_server_that_is_away_sets_everything_adrift_with_its_problem() -> None:
    clock, member = ManualClock(), consumer()
    holding = Holding[str](clock, lambda partition: None)
    holding.assign(Assignment(assigned=(ONE, TWO)))
    holding.take(member, ONE, "known", 0)
    holding.let_go_all(member, "gone; see online.url")
    assert holding.held == {}
    assert {adrift.problem for adrift in holding.adrift.values()} == {"gone; see online.url"}
    assert ONE not in holding.due()
    clock.advance(FIRST_WAIT_US)
    assert ONE in holding.due()
