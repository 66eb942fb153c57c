"""Rows of history that were written before some fields of their event were declared: those fields, from the log.

A slice at a time, beside what is new. What the log has deleted stays without them, in history as in the state that is folded from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from msgspec import structs

from featureflow.clock import Clock
from featureflow.define.spec import Source
from featureflow.errors import OffsetConflictError, OffsetOutOfRangeError, SchemasAwayError
from featureflow.ingest.past import Past
from featureflow.ingest.refused import kept_as_it_came
from featureflow.kernel.decode import Decoder
from featureflow.store.history.protocol import HistoryStore, Unfilled
from featureflow.store.log.protocol import Batch, Log, Partition


class Filler:
    """Of the partitions that a history writer holds. ``until``: where it took them; rows from there on are written with every field."""

    def __init__(
        self, log: Log, history: HistoryStore, sources: Mapping[str, Source], decoder: Callable[[Source], Decoder], clock: Clock
    ) -> None:
        self._log, self._history, self._sources, self._decoder = log, history, sources, decoder
        self._decoders: dict[tuple[str, tuple[str, ...]], Decoder] = {}
        self._past = Past(log, {name: source.topic for name, source in sources.items()}, clock)
        self._until: dict[Partition, int] = {}
        self.busy = False                  # in the last round something was yet to be filled in

    def take(self, partition: Partition, offset: int) -> None:
        """A partition that is written from this offset on."""
        self._until[partition] = offset

    def forget(self, partition: Partition) -> None:
        """One that is another's now."""
        self._until.pop(partition, None)

    def close(self) -> None:
        """Leave the log. No partition is held any more."""
        self._past.close()
        self._until.clear()

    def fill(self) -> dict[Partition, Exception]:
        """A slice of each partition that lacks fields. What was in the way of those that were not filled: another writer that fills them
        too, or a schema registry that is away.

        Raises UnavailableError, LogError.
        """
        problems: dict[Partition, Exception] = {}
        lacking = self._lacking(problems)
        self.busy = bool(lacking)
        try:
            batches = self._past.read({partition: was.first for partition, was in lacking.items()})
        except OffsetOutOfRangeError:      # the log deletes: what is left begins later, as the next round sees
            self._past.close()
            return problems
        for batch in batches:
            partition = Partition(batch.source, batch.partition)
            try:
                self._fill(partition, lacking[partition], batch)
            except (OffsetConflictError, SchemasAwayError) as error:
                problems[partition] = error
        return problems

    def _lacking(self, problems: dict[Partition, Exception]) -> dict[Partition, Unfilled]:
        """What is yet to be filled in, from where the log has it; of which another writer fills some, is added to the problems."""
        found: dict[Partition, Unfilled] = {}
        for name in sorted({partition.source for partition in self._until}):
            marks = self._history.unfilled(name)
            beginning = self._log.topic(self._sources[name].topic).beginning if marks else {}
            for partition in [partition for partition in self._until if partition.source == name]:
                was = marks.get(partition.partition)
                if was is None:
                    self.forget(partition)
                    continue
                try:
                    found[partition] = self._skipped(partition, was, beginning.get(partition.partition, 0))
                except OffsetConflictError as error:
                    problems[partition] = error
        return {partition: was for partition, was in found.items() if partition in self._until}

    def _skipped(self, partition: Partition, was: Unfilled, beginning: int) -> Unfilled:
        """Past what the log has deleted, and what was never there to fill."""
        until = self._until[partition]
        first = max(was.first, min(beginning, until))
        if first == was.first < until:
            return was
        source, nothing = self._sources[partition.source], self._reading(partition.source, was.fields).decode([], []).events
        self._history.fill(source, partition.partition, nothing, [], was, first if first < until else None)
        if first >= until:
            self.forget(partition)
        return replace(was, first=first)

    def _fill(self, partition: Partition, was: Unfilled, batch: Batch) -> None:
        decoded = batch.decoded_by(self._reading(batch.source, was.fields))
        refused = [
            replace(kept, fields=fields)
            for r in decoded.refused
            if (kept := kept_as_it_came(batch, r.index)) is not None and (fields := self._refusing(batch, r.index, was.fields))
        ]
        done = batch.next >= self._until[partition]
        self._history.fill(self._sources[batch.source], batch.partition, decoded.events, refused, was, None if done else batch.next)
        if done:
            self.forget(partition)

    def _refusing(self, batch: Batch, index: int, fields: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the fields that are something else in the record than is declared."""
        value = [batch.values[index]]
        return tuple(field for field in fields if self._reading(batch.source, (field,)).decode(value).refused)

    def _reading(self, name: str, fields: tuple[str, ...]) -> Decoder:
        """What reads these fields of records and no others: a row was an event as it was defined before, whatever the others are now."""
        if (name, fields) not in self._decoders:
            source = self._sources[name]
            read = [field for field in source.fields if field.name in fields and field.name != source.time_field]
            columns = (source.by_name[source.time_field], *(structs.replace(field, nullable=True) for field in read))
            self._decoders[name, fields] = self._decoder(structs.replace(source, fields=columns, keyed_by=None, dedupe=None))
        return self._decoders[name, fields]
