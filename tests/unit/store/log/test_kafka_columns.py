"""Whole batches decode to what kafka-python's own record-by-record decoder gives."""

from __future__ import annotations

import itertools
import socket
import struct
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.consumer.subscription_state import SubscriptionState
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.consumer import ConsumerCoordinator
from kafka.errors import CorruptRecordError
from kafka.net.compat import KafkaNetClient
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords
from kafka.record.util import calc_crc32c
from structlog.testing import capture_logs

from featureflow.errors import LogError
from featureflow.store.log.columns import Columns, batch_of
from featureflow.store.log.kafka_columns import WholeBatch, decode, decode_whole_batches
from featureflow.store.log.kafka_consumer import KafkaConsumer
from featureflow.store.log.kafka_fetches import COORDINATOR, FETCHER, MANAGER, take_fetches
from featureflow.store.log.kafka_joins import PARTS, keep_joins
from featureflow.store.log.protocol import Partition

NOW_MS = 1_700_000_000_000
API_VERSION = (3, 7)
APPEND_TIME_BIT = 0x08
ATTRIBUTES_AT = 21                         # of the header's two attribute bytes
BASE_OFFSET = struct.Struct(">q")
CHECKSUM, CHECKSUM_AT = struct.Struct(">I"), 17                    # of all that follows it
LAST_DELTA, LAST_DELTA_AT = struct.Struct(">i"), 23
COUNT, COUNT_AT, HEADER_BYTES = struct.Struct(">i"), 57, 61
LENGTH, LENGTH_AT = struct.Struct(">i"), 8                         # of what follows it

sizes = st.one_of(st.integers(0, 70), st.sampled_from([126, 127, 128, 8_191, 8_192, 20_000]))
texts = st.one_of(st.none(), sizes.map(lambda size: b"x" * size), st.binary(max_size=20))
headers = st.lists(
    st.tuples(st.sampled_from(["traceparent", "other", ""]), st.one_of(st.none(), st.binary(max_size=5))), max_size=3
)
records = st.lists(
    st.tuples(texts, texts, st.integers(-(2**40), 2**40), st.integers(1, 200), st.one_of(st.just([]), headers)),
    min_size=1,
    max_size=12,
)


def built(rows: list[Any], base: int, *, appended: bool, codec: int = 0) -> bytes:
    """One batch as a broker would hand it out. ``rows``: (key, value, milliseconds from now, offset step, headers)."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=codec,
        is_transactional=False,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 30,
    )
    offset = 0
    for key, value, shift, step, found in rows:
        builder.append(offset, NOW_MS + shift, key, value, found)
        offset += step
    data = bytearray(builder.build())
    BASE_OFFSET.pack_into(data, 0, base)
    if appended:
        data[ATTRIBUTES_AT + 1] |= APPEND_TIME_BIT
    return bytes(data)


def whole(data: bytes) -> WholeBatch:
    batch = DefaultRecordBatch(data)
    return WholeBatch(
        bytes(batch._buffer),
        batch._pos,
        batch.records_count,
        batch.base_offset,
        batch.first_timestamp,
        batch.max_timestamp,
        batch.timestamp_type == 1,
    )


def same(one: Columns, other: Columns) -> None:
    for name in ("offsets", "timestamps_us", "sizes"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in ("values", "keys"):
        assert list(getattr(one, name)) == list(getattr(other, name))
    for name in ("timestamp_kind", "trace_parents"):
        assert getattr(one, name) == getattr(other, name)


@settings(max_examples=100, deadline=None)
@given(st.lists(records, min_size=1, max_size=4), st.booleans())
def test_batches_decode_as_the_reference_decodes_them(batches: list[list[Any]], appended: bool) -> None:
    data, base = [], 0
    for rows in batches:
        data.append(built(rows, base, appended=appended))
        base += sum(row[3] for row in rows)
    reference = [record for one in data for record in DefaultRecordBatch(one)]
    same(decode([whole(one) for one in data]), Columns.of_records(reference))


def test_a_batch_cut_short_is_malformed() -> None:
    batch = whole(built([(b"key", b"value", 0, 1, [])] * 3, 7, appended=True))
    for data in (batch.data[:-1], batch.data + b"\0"):
        broken = WholeBatch(data, batch.position, batch.count, 7, 0, 0, True)
        with pytest.raises(LogError, match="offset 7 is malformed"):
            decode([broken])


def test_fields_that_do_not_fill_their_record_are_malformed() -> None:
    batch = whole(built([(b"key", b"value", 0, 1, [])] * 3, 7, appended=True))
    broken = batch.data.replace(b"\x0avalue", b"\x08value", 1)
    assert broken != batch.data
    with pytest.raises(LogError, match="offset 7 on are malformed"):
        decode([WholeBatch(broken, batch.position, batch.count, 7, 0, 0, True)])


@pytest.mark.parametrize("cuts", [[], [3], [1, 2], [0, 4, 4, 8]])
def test_records_in_parts_are_those_of_the_whole(cuts: list[int]) -> None:
    rows = [(None if i % 3 == 0 else b"k%d" % i, None if i % 4 == 0 else b"v%d" % i, 0, 1, []) for i in range(8)]
    columns = decode([whole(built(rows, 0, appended=True))])
    batch = batch_of("s", 0, 0, [columns.part(a, b) for a, b in zip([0, *cuts], [*cuts, 8], strict=True) if a < b])
    for found, wanted in ((batch.keys, [row[0] for row in rows]), (batch.values, [row[1] for row in rows])):
        assert len(found) == 8
        assert list(found) == wanted
        assert [found[i] for i in range(-8, 8)] == wanted * 2
        assert [list(found[i:j]) for i in range(9) for j in range(9)] == [wanted[i:j] for i in range(9) for j in range(9)]
        with pytest.raises(IndexError):
            found[8]


def fetched(data: bytes, offset: int = 0, *, checked: bool = True) -> list[Columns]:
    """What a fetch from ``offset`` that brought these batches gives, through kafka-python's own fetcher."""
    consumer = SimpleNamespace(_fetcher=object.__new__(Fetcher))
    assert decode_whole_batches(consumer)
    place = TopicPartition("orders", 0)
    found = consumer._fetcher.PartitionRecords(offset, place, MemoryRecords(data), check_crcs=checked)
    return [decode([record.value]).since(offset) for record in found.record_iterator]


def compacted(data: bytes, last_delta: int, *, empty: bool = False) -> bytes:
    """The batch as a cleaner leaves it, which keeps the last offset that a batch had: its tail is gone, or all of its records are."""
    left = bytearray(data[:HEADER_BYTES] if empty else data)
    LAST_DELTA.pack_into(left, LAST_DELTA_AT, last_delta)
    if empty:
        COUNT.pack_into(left, COUNT_AT, 0)
        LENGTH.pack_into(left, LENGTH_AT, len(left) - LENGTH_AT - LENGTH.size)
    CHECKSUM.pack_into(left, CHECKSUM_AT, calc_crc32c(memoryview(left)[CHECKSUM_AT + CHECKSUM.size :]))
    return bytes(left)


def placed(base: int, deltas: list[int]) -> bytes:
    """A batch with records at these distances from its first offset, which say where they are."""
    steps = [after - before for before, after in itertools.pairwise([*deltas, deltas[-1] + 1])]
    return built([(b"k", b"%d" % (base + delta), 0, step, []) for delta, step in zip(deltas, steps, strict=True)], base, appended=False)


COMPACTED = {
    range(100, 110): compacted(placed(100, [0, 1, 4]), 9),
    range(110, 115): compacted(placed(110, [0]), 4, empty=True),
    range(115, 120): placed(115, [0, 2, 4]),
    range(120, 125): compacted(placed(120, [0, 2]), 4),
    range(125, 130): compacted(placed(125, [0]), 4, empty=True),
}
LEFT = [100, 101, 104, 115, 117, 119, 120, 122]


@pytest.mark.parametrize("whole_batches", [True, False])
@pytest.mark.parametrize("end", [batch.stop for batch in COMPACTED])
@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_a_compacted_log_is_read_to_its_end_from_wherever_one_begins(whole_batches: bool, end: int, at_once: int) -> None:
    """By the consumer and kafka-python's fetcher, to which only the broker's answers are handed: this broker gives none."""
    place = TopicPartition("orders", 0)
    broker = socket.create_server(("127.0.0.1", 0))
    options = {"bootstrap_servers": f"127.0.0.1:{broker.getsockname()[1]}", "api_version": API_VERSION, "session_timeout_ms": 10_000}
    consumer = KafkaConsumer(None, {"order": "orders"}, None, [place], options, whole_batches=whole_batches)
    assert consumer.poll(timeout_s=0, max_records=1, max_bytes=1).assignment.assigned == (Partition("order", 0),)
    consumer.poll(timeout_s=0, max_records=1, max_bytes=1)
    broker.settimeout(60)
    connection, _ = broker.accept()
    assert connection.recv(1), "a client that is closed while it connects leaves its socket open"
    fetcher = consumer._consumer._fetcher
    for start in range(100, end):
        consumer.seek(Partition("order", 0), start)
        answer = b"".join(data for offsets, data in COMPACTED.items() if start < offsets.stop <= end)
        fetcher._next_partition_records = fetcher.PartitionRecords(start, place, MemoryRecords(answer))
        at, offsets, values = start, list[int](), list[bytes | None]()
        while at < end:
            batches = consumer.poll(timeout_s=0, max_records=at_once, max_bytes=1_000_000).batches
            assert batches, f"from {start} on it goes on to {at} and not to {end}"
            for batch in batches:
                assert batch.first == at < batch.next
                at = batch.next
                offsets += batch.offsets.tolist()
                values += batch.values
        assert at == end
        assert offsets == [offset for offset in LEFT if start <= offset < end]
        assert values == [b"%d" % offset for offset in offsets]
    consumer.close()
    connection.close()
    broker.close()


@pytest.mark.parametrize("codec", range(5), ids=["none", "gzip", "snappy", "lz4", "zstd"])
def test_every_compression_is_read_and_a_fetch_may_begin_in_the_middle_of_a_batch(codec: int) -> None:
    rows = [(b"k%d" % i, b"a value that repeats itself " * 20, i, 1, []) for i in range(50)]
    data = built(rows, 100, appended=False, codec=codec) + built(rows, 150, appended=False, codec=codec)
    assert (len(data) < 20_000) == (codec > 0), "it was compressed, or not, as it says"
    columns = fetched(data, 120)
    assert [offset for part in columns for offset in part.offsets.tolist()] == list(range(120, 200))
    assert columns[0].keys[0] == b"k20"
    assert {value for part in columns for value in part.values} == {rows[0][1]}


def test_a_batch_whose_bytes_changed_on_the_way_is_refused_by_its_checksum() -> None:
    data = bytearray(built([(b"k", b"value", 0, 1, [])] * 3, 0, appended=False))
    assert len(fetched(bytes(data))[0]) == 3
    data[-3] ^= 1
    with pytest.raises(CorruptRecordError):
        fetched(bytes(data))
    assert fetched(bytes(data), checked=False)[0].values[2] != b"value", "nothing but the checksum tells"


def test_columns_are_cut_by_count_and_by_bytes() -> None:
    columns = decode([whole(built([(b"k", b"v" * 9, 0, 2, [])] * 10, 0, appended=True))])
    assert columns.fit(3, 1_000) == 3
    assert columns.fit(100, 1_000) == 10
    assert columns.fit(100, 39) == 3
    assert columns.fit(100, 40) == 4
    assert columns.fit(100, 9) == 0
    assert columns.since(5).offsets.tolist() == [6, 8, 10, 12, 14, 16, 18]
    assert columns.part(2, 4).offsets.tolist() == [4, 6]


def test_a_kafka_python_without_the_private_parts_is_left_as_it_is() -> None:
    with capture_logs() as said:
        assert not decode_whole_batches(object())
    assert [line["event"] for line in said] == ["records_one_by_one"]
    assert keep_joins(object()) is None
    for missing in PARTS:
        coordinator = SimpleNamespace(**{part: part for part in PARTS if part != missing})
        before = vars(coordinator).copy()
        assert keep_joins(SimpleNamespace(_coordinator=coordinator)) is None
        assert vars(coordinator) == before


def test_a_kafka_python_without_one_of_the_parts_of_fetching_is_left_as_it_is() -> None:
    for of, parts in (("fetcher", FETCHER), ("coordinator", COORDINATOR), ("manager", MANAGER)):
        for missing in parts:
            manager = SimpleNamespace(**{part: part for part in MANAGER})
            fetcher = SimpleNamespace(**{part: part for part in FETCHER} | {"_manager": manager})
            coordinator = SimpleNamespace(**{part: part for part in COORDINATOR})
            delattr({"fetcher": fetcher, "coordinator": coordinator, "manager": manager}[of], missing)
            before = [vars(one).copy() for one in (fetcher, coordinator, manager)]
            with capture_logs() as said:
                assert take_fetches(SimpleNamespace(_fetcher=fetcher, _coordinator=coordinator)) is None
            assert [line["event"] for line in said] == ["fetches_waited_for"]
            assert [vars(one) for one in (fetcher, coordinator, manager)] == before


def test_the_installed_kafka_python_has_the_private_parts() -> None:
    client = KafkaNetClient(bootstrap_servers="127.0.0.1:1", api_version=API_VERSION)  # connects to nothing before it is used
    coordinator = ConsumerCoordinator(
        client, SubscriptionState(), group_id="any", assignors=[CooperativeStickyAssignor], api_version=API_VERSION
    )
    consumer = SimpleNamespace(_fetcher=Fetcher(client, SubscriptionState()), _coordinator=coordinator)
    assert take_fetches(consumer) is not None
    assert decode_whole_batches(consumer)
    assert issubclass(consumer._fetcher.PartitionRecords, Fetcher.PartitionRecords)
    assert consumer._fetcher.PartitionRecords is not Fetcher.PartitionRecords
    assert [part for part in PARTS if not hasattr(coordinator, part)] == []
    assert keep_joins(consumer) is not None
    client.close()
