"""What tracks that are behind have yet to fold, a slice at a time: from the log, or from history where the log has deleted it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from featureflow.clock import Clock
from featureflow.errors import OffsetOutOfRangeError, SchemasAwayError, UnavailableError
from featureflow.ingest.backfill import Backfill, Wanted
from featureflow.ingest.owned import Owned, Stand
from featureflow.ingest.past import Past
from featureflow.ingest.problems import Problems
from featureflow.store.log.protocol import Batch, Log, Partition


class CatchingUp:
    """Reads for the tracks of ``held`` that are not as far as others, in each partition for those with the least to catch up.

    ``backfill`` is shared with whoever claims, ``records`` are at most in a slice of the log. What fails is told to ``problems``, and tried
    again at a later turn.
    """

    def __init__(
        self, log: Log, topics: dict[str, str], backfill: Backfill, clock: Clock, held: Mapping[Partition, Owned], problems: Problems,
        records: int,
    ) -> None:
        self._past, self._backfill, self._held, self._problems = Past(log, topics, clock, records), backfill, held, problems
        self._clock, self._due_us = clock, dict[Partition, int]()  # of those put off, when they are read again

    @property
    def pressing(self) -> bool:
        """Whether there is a past to read, and the log is there to read it from."""
        return bool(self._behind()) and not self._past.away

    def slices(self) -> Iterator[tuple[Owned, Batch, Stand]]:
        """A batch for each partition of which some was to be had, with the tracks that have yet to fold it: up to where others stand.

        Those of partitions that went meanwhile are left out. Raises OffsetOutOfRangeError where what is missing was deleted.
        """
        behind = self._behind()
        deleted = {
            partition: Wanted(stand.offset, min(stand.until, self._held[partition].beginning), self._held[partition].cut_off)
            for partition, stand in behind.items()
            if stand.until is not None and stand.offset < self._held[partition].beginning
        }
        present = {partition: stand.offset for partition, stand in behind.items() if partition not in deleted}
        for batch in (*self._from_log(present), *self._from_history(deleted)):
            partition = Partition(batch.source, batch.partition)
            owned, stand = self._held.get(partition), behind[partition]
            if owned is not None and stand.until is not None:
                yield owned, batch.until(stand.until), stand

    def put_off(self, partition: Partition, error: SchemasAwayError) -> None:
        """What was read of it cannot be decoded for a while; its present may go on."""
        self._due_us[partition] = self._clock.now_us() + error.wait_us
        self._problems.failed(_step(partition), error)

    def goes_on(self, partition: Partition) -> None:
        """What was read of it was decoded."""
        if self._due_us.pop(partition, None) is not None:
            self._problems.over(_step(partition))

    def close(self) -> None:
        """Give the reader of the log up: the worker stops."""
        self._past.close()

    def _behind(self) -> dict[Partition, Stand]:
        for partition in [partition for partition in self._due_us if partition not in self._held]:
            self.goes_on(partition)        # no longer ours
        now_us = self._clock.now_us()
        return {
            partition: stand
            for partition, owned in self._held.items()
            if (stand := owned.behind) is not None and self._due_us.get(partition, 0) <= now_us
        }

    def _from_log(self, wanted: dict[Partition, int]) -> tuple[Batch, ...]:
        try:
            batches = self._past.read(wanted)
        except OffsetOutOfRangeError as error:
            raise deleted(error) from error
        except UnavailableError as error:
            self._problems.failed("catch up", error)
            return ()
        if not wanted or not self._past.away:
            self._problems.over("catch up")
        return batches

    def _from_history(self, wanted: dict[Partition, Wanted]) -> tuple[Batch, ...]:
        try:
            batch = self._backfill.read(wanted)
        except OffsetOutOfRangeError as error:
            raise deleted(error) from error
        except UnavailableError as error:
            self._problems.failed("backfill", error)
            return ()
        if not wanted or not self._backfill.away:
            self._problems.over("backfill")
        return () if batch is None else (batch,)


def _step(partition: Partition) -> str:
    return f"catch up with {partition.source}/{partition.partition}"


def deleted(error: OffsetOutOfRangeError) -> OffsetOutOfRangeError:
    """The same, with what to do about it."""
    return OffsetOutOfRangeError(
        f"{error}. Events were deleted before they were folded: run `featureflow rebuild VIEW` for each view of that topic"
    )
