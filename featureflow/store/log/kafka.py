"""The log as Apache Kafka, through kafka-python. Reading is in ``kafka_consumer``."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import kafka.errors
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, OffsetSpec

from featureflow.errors import UnavailableError
from featureflow.store.log import kafka_producer
from featureflow.store.log.kafka_consumer import KafkaConsumer
from featureflow.store.log.kafka_error import translated
from featureflow.store.log.kafka_transactions import KafkaTransactions
from featureflow.store.log.protocol import Consumer, Record, TopicState

REQUEST_MS = 15_000
BOOTSTRAP_MS = 10_000
CONNECT_S = 5.0
DELIVERY_MS = 30_000
FLUSH_S = DELIVERY_MS / 1000 + 5.0          # after a broker's restart kafka-python may keep a batch that neither arrives nor expires
RECONNECT_MS = 1_000                       # between two attempts, at most: kafka-python's 30 s go on after a broker is back
SESSION_MS = 6_000                         # a dead member costs this long, the least that brokers allow by default; a worker that was
                                           # only slow loses its partitions too, and nothing else: its commits are refused
TIMESTAMP_TYPE, APPEND_TIME = "message.timestamp.type", "LogAppendTime"

T = TypeVar("T")


class KafkaLog:
    """``servers`` is ``host:port[,host:port]``; ``options`` are kafka-python's, for TLS and SASL.

    ``whole_batches`` False keeps to kafka-python's public calls, at several times the cost a record.
    """

    def __init__(
        self, servers: str, *, session_ms: int = SESSION_MS, whole_batches: bool = True, **options: Any
    ) -> None:
        self._servers = servers
        self._options = {
            "bootstrap_servers": servers.split(","),
            "bootstrap_timeout_ms": BOOTSTRAP_MS,
            "reconnect_backoff_max_ms": RECONNECT_MS,
            **options,
        }
        self._session_ms = session_ms
        self._whole_batches = whole_batches
        self._lock = threading.Lock()
        self._admin: KafkaAdminClient | None = None
        self._producer: KafkaProducer | None = None
        self._turn = itertools.count()
        self._partitions: dict[str, int] = {}                  # of topics that were appended to

    def consumer(self, group: str, sources: dict[str, str], *, member: str | None = None) -> KafkaConsumer:
        for topic in sources.values():
            self.topic(topic)
        return self._call("join a group", lambda: self._consumer(group, sources, member, ()))

    def reader(self, sources: dict[str, str]) -> KafkaConsumer:
        counts = {topic: self.topic(topic).partitions for topic in sources.values()}
        places = [TopicPartition(topic, number) for topic, count in counts.items() for number in range(count)]
        return self._call("be read", lambda: self._consumer(None, sources, None, places))

    def _consumer(
        self, group: str | None, sources: dict[str, str], member: str | None, places: Sequence[TopicPartition]
    ) -> KafkaConsumer:
        def describe() -> dict[str, Any]:
            found: dict[str, Any] = self._administrator().describe_groups([group])[group]
            return found

        options = {**self._options, "session_timeout_ms": self._session_ms}
        return KafkaConsumer(group, sources, member, places, options, whole_batches=self._whole_batches, describe=describe)

    def transactions(self, consumer: Consumer, name: str) -> KafkaTransactions:
        assert isinstance(consumer, KafkaConsumer), "a consumer of this log"
        return KafkaTransactions(consumer, name, self._options, self._servers, reach=self._reach, find=self._find)

    def ensure_topic(self, topic: str, partitions: int, *, compacted: bool = False, replication: int = -1) -> bool:
        """Created with LogAppendTime, so that the future is judged by the broker's clock and not by a producer's."""
        wanted = {
            "num_partitions": partitions,
            "replication_factor": replication,
            "configs": {TIMESTAMP_TYPE: APPEND_TIME} | ({"cleanup.policy": "compact"} if compacted else {}),
        }
        try:
            self._call(
                f"create topic {topic!r}",
                lambda: self._administrator().create_topics({topic: wanted}, wait_for_metadata=True),
                passing=kafka.errors.TopicAlreadyExistsError,
            )
        except kafka.errors.TopicAlreadyExistsError:
            return False
        return True

    def topic(self, topic: str) -> TopicState:
        """``topic_id`` is Kafka's own (KIP-516)."""

        def ask() -> TopicState:
            admin = self._administrator()
            described = self._described(topic)
            numbers = sorted(row["partition_index"] for row in described["partitions"])
            beginning = admin.list_partition_offsets({TopicPartition(topic, n): OffsetSpec.EARLIEST for n in numbers})
            end = admin.list_partition_offsets({TopicPartition(topic, n): OffsetSpec.LATEST for n in numbers})
            return TopicState(
                topic_id=str(described["topic_id"]),
                partitions=len(numbers),
                beginning={n: beginning[TopicPartition(topic, n)].offset for n in numbers},
                end={n: end[TopicPartition(topic, n)].offset for n in numbers},
            )

        return self._call(f"describe topic {topic!r}", ask)

    def check(self, topic: str) -> list[str]:
        """Whether the producer sets the timestamps of records."""
        self.topic(topic)
        asked = ConfigResource(ConfigResourceType.TOPIC, topic, [TIMESTAMP_TYPE])

        def ask() -> str:
            found = self._administrator().describe_configs([asked], config_filter="all")
            return str(found["topic"][topic][TIMESTAMP_TYPE]["value"])

        if (kind := self._call(f"describe the settings of topic {topic!r}", ask)) == APPEND_TIME:
            return []
        wanted = f"{TIMESTAMP_TYPE}={APPEND_TIME}"
        return [(
            f"topic {topic} has {TIMESTAMP_TYPE}={kind}: how far ahead of its time an event may be is measured from its partition's newest "
            "event. Where none comes for longer than future=, all that come later are refused as `future`; and a first one with a wrong "
            f"clock makes those after it late. Set {wanted}: kafka-configs.sh --bootstrap-server {self._servers} --alter "
            f"--entity-type topics --entity-name {topic} --add-config {wanted}"
        )]

    def append(self, topic: str, records: Sequence[Record]) -> list[tuple[int, int]]:
        """Idempotent, acknowledged by all in-sync replicas. A key's partition is Kafka's own choice (murmur2), so that
        producers in other languages agree with this one."""
        producer = self._call("produce", self._appender)
        self._find(topic)

        def partition(record: Record) -> int | None:
            if record.partition is not None or record.key is not None:
                return record.partition
            return next(self._turn) % self._partitions[topic]

        def send() -> list[tuple[int, int]]:
            futures = [
                producer.send(topic, value=r.value, key=r.key, headers=list(r.headers), partition=partition(r))
                for r in records
            ]
            try:
                producer.flush(timeout=FLUSH_S)
            except kafka.errors.KafkaTimeoutError:
                self._abandon(producer)
                raise
            stored = [future.get(timeout=DELIVERY_MS / 1000) for future in futures]
            return [(place.partition, place.offset) for place in stored]

        return self._call(f"append to topic {topic!r}", send, writing=True)

    def ping(self) -> str:
        def ask() -> str:
            admin = self._administrator()
            broker = admin.describe_cluster()["brokers"][0]["broker_id"]
            return "Apache Kafka " + ".".join(map(str, admin.get_broker_version_data(broker).broker_version))

        return self._call("answer", ask)

    def close(self) -> None:
        with self._lock:
            if self._producer is not None:
                self._producer.close(timeout=DELIVERY_MS / 1000)
            if self._admin is not None:
                self._admin.close()
            self._producer = self._admin = None

    def _find(self, topic: str) -> None:
        """Raises LogError for an absent topic: a producer itself would wait for it until its time-out."""
        if topic not in self._partitions:
            described = self._call(f"append to topic {topic!r}", lambda: self._described(topic))
            self._partitions[topic] = len(described["partitions"])

    def _described(self, topic: str) -> dict[str, Any]:
        """Raises kafka-python's UnknownTopicOrPartitionError."""
        described: dict[str, Any]
        [described] = self._administrator().describe_topics([topic])
        if described["error_code"]:
            raise kafka.errors.for_code(described["error_code"])(topic)
        return described

    def _reach(self) -> None:
        """Raise UnavailableError at once where no server listens: kafka-python itself would try until its time-out, and leave
        its sockets open."""
        problems = []
        for server in self._servers.split(","):
            host, _, port = server.rpartition(":")
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
            except OSError as error:
                problems.append(f"{server}: {error.strerror or error}")
            else:
                return
        raise UnavailableError(f"Kafka does not answer ({', '.join(problems)}); log.url points to it")

    def _administrator(self) -> KafkaAdminClient:
        with self._lock:
            if self._admin is None:
                self._reach()
                self._admin = KafkaAdminClient(**{"request_timeout_ms": REQUEST_MS, **self._options})
            return self._admin

    def _appender(self) -> KafkaProducer:
        with self._lock:
            if self._producer is None:
                self._reach()
                self._producer = KafkaProducer(
                    linger_ms=2,
                    delivery_timeout_ms=DELIVERY_MS,
                    max_block_ms=DELIVERY_MS,
                    **{"request_timeout_ms": REQUEST_MS, **self._options, **kafka_producer.ALWAYS},
                )
            return self._producer

    def _abandon(self, producer: KafkaProducer) -> None:
        """The next append makes another."""
        with self._lock:
            if self._producer is producer:
                self._producer = None
        producer.close(timeout=0)

    def _call(
        self, what: str, do: Callable[[], T], *, writing: bool = False, passing: type[Exception] | tuple[()] = ()
    ) -> T:
        try:
            return do()
        except passing:
            raise
        except (kafka.errors.KafkaError, AssertionError, ValueError) as error:
            raise translated(error, f"{self._servers} cannot {what}", writing=writing) from error
