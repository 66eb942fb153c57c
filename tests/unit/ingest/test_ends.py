"""How fresh a state may say it is, from where the log was seen to end."""

from __future__ import annotations

from featureflow.ingest.ends import KEPT, Ends


def test_a_state_is_complete_as_of_the_last_time_that_the_log_ended_at_it_or_before() -> None:
    ends = Ends()
    assert (ends.complete_ms(10**9), ends.newest) == (0, -1), "nothing was asked yet"
    ends.saw(1_000, 10)
    ends.saw(2_000, 30)
    ends.saw(3_000, 30)
    assert [ends.complete_ms(offset) for offset in (0, 9, 10, 29, 30, 31)] == [0, 0, 1_000, 1_000, 3_000, 3_000]
    assert ends.newest == 30


def test_a_replay_of_hours_keeps_few_instants_and_never_says_more_than_is_so() -> None:
    ends, true = Ends(), {}
    for second in range(10_000):
        ends.saw(second * 1_000, second * 7)
        true[second * 7] = second * 1_000
    assert len(ends._seen) <= KEPT
    told = [(offset, ends.complete_ms(offset)) for offset in range(0, 70_000, 997)]
    assert all(told_ms <= true[offset // 7 * 7] for offset, told_ms in told)
    assert ends.complete_ms(0) == 0
    assert ends.complete_ms(9_999 * 7) == 9_999_000
    assert [told_ms for _, told_ms in told] == sorted(told_ms for _, told_ms in told)
