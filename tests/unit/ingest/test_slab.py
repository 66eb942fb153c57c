"""The slab against the replay of everything that it was given."""

from __future__ import annotations

import numpy as np
import pytest
from unit.ingest.slab_driver import LAYOUTS, NOW_US, Driver, events_of, layout_of, replay, rows_of, sliding

from featureflow import limits
from featureflow.errors import StateError
from featureflow.ingest import slots
from featureflow.kernel.tile import SECOND_US
from featureflow.store.online.writes import Writes


@pytest.fixture
def driver() -> Driver:
    return Driver(LAYOUTS["two sliding windows"])


def test_a_new_entity_is_written_whole_over_nothing(driver: Driver) -> None:
    (write,) = driver.commit((1, 0), (1, 0.5), (1, 1))
    assert (write.expected_bytes, write.header, write.patches) == (0, b"", ())
    assert write.whole is not None
    assert len(write.whole) == driver.layout.header_bytes + 2 * driver.layout.row_bytes


def test_only_the_rows_that_were_touched_are_patched_and_neighbours_share_a_patch(driver: Driver) -> None:
    driver.commit((1, 0), (1, 1), (1, 2), (2, 0))
    size, header = driver.layout.row_bytes, driver.layout.header_bytes
    (write,) = driver.commit((1, 0), (1, 2), (1, 3), (1, 4))
    assert write.expected_bytes == header + 3 * size
    assert [(patch.position, len(patch.data)) for patch in write.patches] == [(header, size), (header + 2 * size, 3 * size)]


def test_a_row_that_several_events_touch_is_patched_once_in_a_commit(driver: Driver) -> None:
    driver.commit((1, 0))
    (write,) = driver.commit((1, 0), (1, 1), (1, 0), (1, 1))
    assert [len(patch.data) for patch in write.patches] == [2 * driver.layout.row_bytes]


def test_events_of_an_exact_window_are_rows_of_their_own_and_those_of_one_microsecond_share_one() -> None:
    driver = Driver(LAYOUTS["an exact window"])
    writes = driver.commit((1, 0.25), (1, 0), (2, 0.5), (1, 0.000_001), (1, 0.25), (2, 0))
    sizes = {write.key: len(write.whole or b"") - driver.layout.header_bytes for write in writes}
    rows = [sizes[driver.slab.key(0, user)] / driver.layout.row_bytes for user in ("u:1", "u:2")]
    assert rows == [3, 2]


def test_each_commit_of_a_batch_writes_what_its_rows_are_then_on_top_of_the_ones_before(driver: Driver) -> None:
    driver.commit((1, 0))
    size, header = driver.layout.row_bytes, driver.layout.header_bytes
    first, second = driver.fold((1, 0), (2, 5), (1, 1), (1, 0), (1, 2), (2, 4), commit_of=[0, 0, 0, 1, 1, 1])
    (one, two), (more, again) = list(first), list(second)
    assert [(p.position, len(p.data)) for p in one.patches] == [(header, 2 * size)]
    assert (two.expected_bytes, len(two.whole or b"")) == (0, header + size)
    assert more.expected_bytes == header + 2 * size
    assert [(p.position, len(p.data)) for p in more.patches] == [(header, size), (header + 2 * size, size)]
    assert again.expected_bytes == header + size
    assert [(p.position, len(p.data)) for p in again.patches] == [(header + size, size)]
    assert again.header == (two.whole or b"")[:header]
    assert (more.renew_ms, again.renew_ms) == (one.renew_ms, 0)


def test_what_comes_after_a_commit_that_was_refused_is_forgotten_and_read_again(driver: Driver) -> None:
    driver.commit((1, 0), (2, 0), (3, 0))
    first, _ = driver.fold((1, 0), (2, 0), (2, 0), (3, 0), commit_of=[0, 0, 1, 1])
    driver.store.apply(first)
    driver.slab.committed([0, -1])
    assert driver.slab.find(0, ["u:1", "u:2", "u:3"]).tolist() == [driver.slab.find(0, ["u:1"])[0], -1, -1]
    driver.happened[driver.slab.key(0, "u:2")].pop()
    driver.happened[driver.slab.key(0, "u:3")].pop()
    driver.commit((2, 0), (3, 0))


def test_a_part_without_events_writes_nothing(driver: Driver) -> None:
    first, second, third = driver.fold((1, 0), (1, 0), commit_of=[0, 2])
    assert (len(first), second, len(third)) == (1, Writes(), 1)


@pytest.mark.parametrize("commits", [499, 500, 2_100, 5_000])
def test_each_of_any_number_of_commits_writes_the_one_row_of_its_own(driver: Driver, commits: int) -> None:
    """Of entities that are new, that others of the batch touch before, and that the store has."""
    driver.commit(*((n, 0) for n in range(0, 700, 2)))
    seen = [(n % 700, 1 + n // 700) for n in range(commits)]
    parts = driver.fold(*seen, commit_of=range(commits))
    for (n, _), part in zip(seen, parts, strict=True):
        assert part.keys == (driver.slab.key(0, f"u:{n}"),)
        assert not driver.store.apply(part)
    driver.slab.committed([0] * commits)
    for key, happened in driver.happened.items():
        assert rows_of(driver.layout, driver.store.values[key]) == replay(driver.layout, driver.store.values[key], happened)


def test_an_entity_is_rolled_up_when_half_its_rows_can_be_and_is_written_whole_over_its_old_length(driver: Driver) -> None:
    writes = []
    for t in range(0, 600, 2):
        (write,) = driver.commit((1, t))
        writes.append(write)
    whole = [write for write in writes[1:] if write.whole is not None]
    assert 2 <= len(whole) < 30
    assert all(write.expected_bytes > len(write.whole or b"") for write in whole)
    assert max(len(value) for value in driver.store.values.values()) < 250 * driver.layout.row_bytes


def test_a_batch_rolls_up_only_so_many_rows_and_leaves_the_rest_for_the_next(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ROLL_UP_ROWS", 50)
    driver.commit(*((n, t) for n in range(8) for t in range(20)))
    driver.commit((9, 1_000))
    assert sum(write.whole is not None for write in driver.commit(*((n, 1_000) for n in range(8)))) == 2
    assert sum(write.whole is not None for write in driver.commit(*((n, 1_000) for n in range(8)))) == 2


def test_rows_that_are_rolled_up_weigh_on_the_commit_that_writes_them(driver: Driver) -> None:
    driver.commit(*((n, t) for n in (1, 3) for t in range(20)))
    driver.commit((3, 1_000), (4, 1_000))
    events = events_of(0, driver.offset, [(2, NOW_US + 1_000 * SECOND_US, 1.0), (1, NOW_US + 1_000 * SECOND_US, 1.0)] * 2)
    driver.slab.load(0, ["u:2"], [None])
    placed = driver.slab.place(0, events, np.arange(4), driver.slab.find(0, driver.slab.ids(events)), driver.watermark)
    assert sorted(zip(*map(list, placed.rows), strict=True)) == [(0, -1), (1, -1), (2, 0), (3, 1)]
    assert sorted(zip(*map(list, placed.keys), strict=True)) == [(0, -1), (1, -1), (2, 0), (3, 1)]
    assert placed.whole.rows.tolist() == [0]                # all of its rows are dead
    assert driver.slab.fold(placed, np.zeros(4, np.int64), 1)[0][1] == 2


def test_rows_that_can_no_longer_be_asked_for_leave_the_store(driver: Driver) -> None:
    driver.commit(*((1, t) for t in range(20)))
    driver.commit((2, 10_000))
    (write,) = driver.commit((1, 10_000))
    assert write.whole is not None
    assert len(write.whole) == driver.layout.header_bytes + driver.layout.row_bytes


def test_an_entity_that_is_old_when_it_is_first_seen_lands_in_large_tiles() -> None:
    driver = Driver(layout_of(sliding(12), sliding(12_000)))
    driver.commit((1, 0), (1, 1), (1, 2), (2, 5_000))
    assert len(driver.store.values[driver.slab.key(0, "u:1")]) == driver.layout.header_bytes + driver.layout.row_bytes


def test_a_key_that_expired_is_read_again_and_then_written_whole(driver: Driver) -> None:
    driver.commit((1, 0), (2, 0), (3, 0))
    (writes,) = driver.fold((1, 1), (2, 1), (3, 1))
    del driver.store.values[gone := driver.slab.key(0, "u:2")]
    assert [writes.keys[i] for i in driver.store.apply(writes)] == [gone]
    driver.slab.committed([-1])
    driver.happened = {key: happened[:-1] for key, happened in driver.happened.items() if key != gone}
    assert [write.key for write in driver.commit((1, 1), (2, 1), (3, 1)) if write.whole is not None] == [gone]


def test_state_lives_as_long_as_it_may_be_needed_after_any_write_of_it_and_is_seldom_renewed() -> None:
    """By the store's clock: a write renews a life from its ``renew_ms`` on, to its ``ttl_ms``."""
    driver = Driver(layout_of(sliding(10), sliding(120)))
    needed_ms, rng = driver.layout.ttl_ms, np.random.default_rng(0)
    now_ms, dies_ms, renewals = 1_000, 0, 0
    for _ in range(400):
        ((write,),) = driver.fold((1, 0))
        if write.whole is not None or now_ms >= write.renew_ms:
            dies_ms, renewals = now_ms + write.ttl_ms, renewals + 1
        assert needed_ms <= dies_ms - now_ms <= 1.2 * needed_ms
        driver.store.apply(Writes.of([write]))
        driver.slab.committed([now_ms])
        now_ms += int(rng.integers(0, needed_ms // 20))
    assert renewals < 120


def test_a_life_that_began_before_the_claim_is_renewed_by_the_first_write(driver: Driver) -> None:
    driver.commit((1, 0))
    driver.slab.drop(0)
    ((write,),) = driver.fold((1, 1))
    assert write.patches
    assert write.renew_ms == 0


def test_dropping_a_partition_forgets_what_was_folded_and_leaves_other_partitions(driver: Driver) -> None:
    driver.commit((1, 0), partition=0)
    driver.fold((1, 0), partition=1)
    driver.slab.drop(1)
    driver.slab.committed([-1])
    assert driver.slab.find(1, ["u:1"]).tolist() == [-1]
    assert driver.slab.find(0, ["u:1"]).tolist() != [-1]


def test_one_batch_is_folded_on_top_of_another_that_is_not_known_to_be_committed_and_no_more(driver: Driver) -> None:
    driver.fold((1, 0), partition=0)
    driver.fold((1, 0), partition=0)
    for partition in (0, 1):
        with pytest.raises(RuntimeError, match="partition 0 has folds to commit"):
            driver.fold((1, 0), partition=partition)


def test_what_is_folded_on_top_of_a_batch_that_is_on_its_way_is_written_as_if_that_were_there(driver: Driver) -> None:
    driver.commit((1, 0))
    (first,) = driver.fold((1, 0), (1, 1), (2, 0))
    (second,) = driver.fold((1, 1), (2, 1), (3, 0))
    size, header = driver.layout.row_bytes, driver.layout.header_bytes
    assert [write.expected_bytes for write in second] == [header + 2 * size, header + size, 0]
    for writes in (first, second):
        assert not driver.store.apply(writes)
        driver.slab.committed([0])
    driver.commit((1, 1), (2, 1), (3, 1))


def test_entities_of_both_batches_stay_until_the_second_is_committed(driver: Driver) -> None:
    for n in (1, 2):
        driver.store.apply(driver.fold((n, 0), (3, 0))[0])
    driver.slab.committed([0])
    driver.slab.max_bytes = 0
    driver.slab.evict()
    assert (driver.slab.find(0, ["u:1", "u:2", "u:3"]) >= 0).tolist() == [False, True, True]
    driver.slab.committed([0])
    driver.slab.evict()
    assert (driver.slab.find(0, ["u:1", "u:2", "u:3"]) >= 0).tolist() == [False, False, False]


def test_where_the_first_batch_is_refused_both_are_forgotten_and_read_again(driver: Driver) -> None:
    driver.commit((1, 0), (2, 0), (3, 0))
    held = {key: list(happened) for key, happened in driver.happened.items()}
    driver.fold((1, 1), (2, 1))
    first = driver.slab.pending
    driver.fold((2, 2), (3, 2))
    second = driver.slab.pending
    driver.slab.committed([-1], second)
    driver.slab.committed([-1], first)
    assert (driver.slab.find(0, ["u:1", "u:2", "u:3"]) < 0).all()
    assert driver.slab.entities == 0
    driver.happened = held
    driver.commit((1, 1), (2, 1), (2, 2), (3, 2))


def test_an_entity_that_is_not_here_has_no_slot(driver: Driver) -> None:
    driver.commit((1, 0))
    assert (driver.slab.find(0, ["u:3", "u:1", "u:2", "u:1"]) < 0).tolist() == [True, False, True, False]


def test_the_least_recently_used_entities_go_first_and_none_with_something_to_commit() -> None:
    driver = Driver(LAYOUTS["two sliding windows"])
    order = [37 * n % 98 for n in range(98)]
    driver.commit(*((n, 0) for n in range(100)))
    for n in order:
        driver.commit((n, 1))
    (writes,) = driver.fold((98, 1), (99, 1))
    driver.slab.max_bytes = driver.slab.used_bytes // 2
    gone = driver.slab.evict()
    assert 50 <= gone < 70
    assert driver.slab.used_bytes <= driver.slab.max_bytes
    absent = np.flatnonzero(driver.slab.find(0, [f"u:{n}" for n in range(100)]) < 0)
    assert set(absent.tolist()) == set(order[:gone])
    driver.slab.max_bytes = 1
    driver.slab.evict()
    assert (driver.slab.find(0, ["u:61", "u:98", "u:99"]) < 0).tolist() == [True, False, False]
    driver.store.apply(writes)
    driver.slab.committed([0])
    driver.slab.evict()
    assert driver.slab.entities == 0


def test_nothing_is_evicted_within_the_bound(driver: Driver) -> None:
    driver.commit((1, 0))
    assert driver.slab.evict() == 0
    assert driver.slab.entities == 1


def test_entities_that_grow_leave_the_table_within_the_bound_whatever_sizes_were_left_behind() -> None:
    """Each round fills the bound with entities of twice as many rows as before; the first of each go on from the round before it."""
    driver = Driver(LAYOUTS["an exact window"], max_bytes := 1 << 20)
    entities, at = max_bytes // (8 * driver.layout.width * 4), 0
    for size in (4, 8, 16, 32, 64):
        for first in range(0, entities * 4 // size, 16):
            (writes,) = driver.fold(*((n, (at := at + 1) / 1_000_000) for n in range(first, first + 16) for _ in range(size)))
            assert not driver.store.apply(writes)
            driver.slab.committed([0])
            driver.slab.evict()
            assert driver.slab.used_bytes <= max_bytes
        assert driver.slab.arena.table.nbytes <= 3 * max_bytes // 2, size
    blobs = [driver.store.values[driver.slab.key(0, f"u:{n}")] for n in range(16)]
    for n, blob in enumerate(blobs):
        assert rows_of(driver.layout, blob) == replay(driver.layout, blob, driver.happened[driver.slab.key(0, f"u:{n}")])


def test_an_evicted_entity_goes_on_from_what_the_store_holds(driver: Driver) -> None:
    driver.commit((1, 0), (1, 1))
    driver.slab.max_bytes = 1
    driver.slab.evict()
    (write,) = driver.commit((1, 1))
    assert [patch.position for patch in write.patches] == [driver.layout.header_bytes + driver.layout.row_bytes]


def test_a_slab_that_is_full_of_entities_names_the_view_and_what_to_do(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "SLOTS", 100)
    driver.commit(*((n, 0) for n in range(100)))
    with pytest.raises(StateError, match="view paid@.* from pay .* at most 100 entities.*more partitions and workers"):
        driver.fold((100, 0))
    driver.commit((7, 1))


def test_ids_that_are_numbers_are_whole_in_the_key() -> None:
    driver = Driver(LAYOUTS["tumbling, keyed by a number"])
    (write,) = driver.commit((7, 0))
    assert b":shop:7:" in write.key


def test_an_entity_that_another_partition_has_is_not_taken_in_and_its_neighbours_are() -> None:
    driver = Driver(LAYOUTS["three tiles, one key over all partitions"])
    driver.commit((1, 0), partition=0)
    slab, blob = driver.slab, driver.store.values[driver.slab.key(0, "u:1")]
    assert slab.load(1, ["u:0", "u:1", "u:2"], [None, blob, None]) == {"u:1": 0}
    assert (slab.find(1, ["u:0", "u:1", "u:2"]) < 0).tolist() == [False, True, False]


def test_rows_of_another_partition_under_a_key_that_names_one_are_refused_loudly() -> None:
    driver = Driver(LAYOUTS["tumbling, keyed by a number"])
    (write,) = driver.commit((7, 0), partition=0)
    with pytest.raises(StateError, match="rows of another partition.*rebuild"):
        driver.slab.load(1, [7], [driver.store.values[write.key]])


def test_a_damaged_value_is_refused_loudly(driver: Driver) -> None:
    driver.commit((0, 0))
    (write,) = driver.commit((1, 0))
    driver.slab.drop(0)
    driver.store.values[write.key] = driver.store.values[write.key][:-1]
    with pytest.raises(StateError, match="bytes.*Run `featureflow rebuild paid`") as refused:
        driver.fold((0, 0), (1, 0))
    assert f"1', key {write.key.decode()}: " in str(refused.value) or f"entity 1, key {write.key.decode()}: " in str(refused.value)
