"""Kafka's transactions (KIP-98), with the group's offsets in them (KIP-447).

A process that died in a transaction is undone when one of the same name begins, or after ``OPEN_MS``; until then readers that read what is
committed wait before its records. A process that was only slow is fenced: by its producer's epoch where another has its name, by its
membership of the group where another has its partitions.

It waits for kafka-python's transaction manager itself: kafka-python's own calls wait for as long as a broker is away, and a process that is
told to end meanwhile could not. So it builds on private parts of the producer (``_transaction_manager``, ``_sender``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import kafka.errors
from kafka import KafkaProducer
from kafka.structs import OffsetAndMetadata

from featureflow.errors import FencedError, LogError, UnknownOutcomeError
from featureflow.store.log import kafka_producer
from featureflow.store.log.kafka_consumer import KafkaConsumer
from featureflow.store.log.kafka_error import translated
from featureflow.store.log.protocol import Partition, Transaction

OPEN_MS = 10_000                           # before the broker undoes a transaction whose producer says nothing
WAIT_MS = 15_000                           # for an answer to a step of one
REQUEST_MS = 10_000
AGAIN_MS = 5                               # the broker is still writing the end of the last transaction when the next one begins: the
                                           # client asks again after this, by itself after 100 ms, which nearly every one would wait
FENCED = (
    kafka.errors.CommitFailedError, kafka.errors.FencedInstanceIdError, kafka.errors.ProducerFencedError,
    kafka.errors.InvalidProducerEpochError, kafka.errors.InvalidTxnStateError, kafka.errors.InvalidProducerIdMappingError,
)  # fmt: skip


class KafkaTransactions:
    """Made by ``KafkaLog.transactions``. ``name`` is the producer's transactional.id; ``reach`` raises UnavailableError where no server
    listens, ``find`` LogError where there is no such topic."""

    def __init__(
        self,
        consumer: KafkaConsumer,
        name: str,
        options: dict[str, Any],
        servers: str,
        *,
        reach: Callable[[], None],
        find: Callable[[str], None],
    ) -> None:
        self._consumer, self._name, self._options, self._servers = consumer, name, options, servers
        self._reach, self._find = reach, find
        self._producer: KafkaProducer | None = None

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        self._call("begin transactions", self._begun)          # which undoes what one of this name left unfinished
        return self._consumer.committed(partitions, WAIT_MS / 1000)

    def commit(self, transaction: Transaction) -> None:
        """Steps of one: 1. begin, 2. append, 3. the group's offsets with the membership that fences, 4. end."""
        for topic in transaction.records:
            self._find(topic)
        membership = self._consumer.membership(transaction.moved)
        offsets = {self._consumer.place(partition): OffsetAndMetadata(to, "", -1) for partition, (_, to) in transaction.moved.items()}

        def do() -> None:
            producer = self._begun()
            manager = producer._transaction_manager
            producer.begin_transaction()  # 1
            sent = [  # 2
                producer.send(topic, value=r.value, key=r.key, headers=list(r.headers), partition=r.partition)
                for topic, records in transaction.records.items()
                for r in records
            ]
            if offsets:
                self._waited(producer, manager.send_offsets_to_transaction(offsets, membership))  # 3
            self._waited(producer, manager.begin_commit())  # 4
            for future in sent:            # each has its answer by now; what was refused is raised
                future.get(timeout=WAIT_MS / 1000)

        self._call("commit a transaction", do)

    def close(self) -> None:
        self._abandon(wait_s=WAIT_MS / 1000)

    def _begun(self) -> KafkaProducer:
        if self._producer is None:
            self._reach()
            self._producer = KafkaProducer(
                transactional_id=self._name,
                transaction_timeout_ms=OPEN_MS,
                linger_ms=0,
                delivery_timeout_ms=WAIT_MS,
                max_block_ms=WAIT_MS,
                metrics_enabled=False,
                **{"request_timeout_ms": REQUEST_MS, "retry_backoff_ms": AGAIN_MS, **self._options, **kafka_producer.ALWAYS},
            )
            self._producer.init_transactions()
        return self._producer

    @staticmethod
    def _waited(producer: KafkaProducer, result: Any) -> None:
        producer._sender.wakeup()
        if not result.wait(timeout_ms=WAIT_MS):
            raise kafka.errors.KafkaTimeoutError(f"no answer in {WAIT_MS} ms")

    def _call(self, what: str, do: Callable[[], object]) -> None:
        """After any error the next transaction has a producer of its own, whose beginning undoes this one."""
        try:
            do()
        except (kafka.errors.KafkaError, AssertionError, ValueError) as error:
            cause = self._cause(error)
            self._abandon()
            said = f"{self._servers} cannot {what}"
            if isinstance(cause, FENCED):
                raise FencedError(f"{said}: others have gone on ({type(cause).__name__}: {cause})") from error
            if isinstance(found := translated(cause, said, writing=True), LogError):
                raise found from error
            raise UnknownOutcomeError(str(found)) from error
        except BaseException:
            self._abandon()
            raise

    def _cause(self, error: Exception) -> Exception:
        """kafka-python's calls say "in an error state" of what went wrong before them."""
        last = None if self._producer is None else self._producer._transaction_manager.last_error
        return last if isinstance(last, Exception) else error

    def _abandon(self, wait_s: float = 0.0) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(kafka.errors.KafkaError, AssertionError, ValueError):
                producer.close(timeout=wait_s)
