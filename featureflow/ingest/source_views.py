"""All views of one source: their slabs, and the way of a batch of that source into them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featureflow import limits
from featureflow.define.spec import Project, Source
from featureflow.ingest.cell_slab import CellSlab
from featureflow.ingest.cuts import Changes, Whole, cuts
from featureflow.ingest.dead_letter import letters
from featureflow.ingest.decode import Decoder
from featureflow.ingest.event_form import EventForm, Staying
from featureflow.ingest.ids import KeptIds
from featureflow.ingest.judged import Judged
from featureflow.ingest.order import Index
from featureflow.ingest.owned import Owned, Stand
from featureflow.ingest.placed import Placed
from featureflow.ingest.publish import Publisher
from featureflow.ingest.share import Part, Share, by_share, commits_of
from featureflow.ingest.slab import Slab
from featureflow.ingest.slots import Id, ids_in
from featureflow.kernel import accept
from featureflow.kernel.columns import Layout
from featureflow.kernel.record import Records
from featureflow.store.keys import Bucket, Keys
from featureflow.store.log.protocol import Batch
from featureflow.store.online.protocol import Advance, Commit, OnlineStore, Track
from featureflow.store.online.writes import Writes

READ_KEYS = 500                            # in one MGET: a longer one holds every other reader up


class SourceViews:
    """The slabs of each view, and the steps of a batch through all of them. Used from one thread.

        judge -> load -> tell_duplicates -> shares -> fold -> commit (each part) -> moved (each that was applied) -> committed

    ``drop`` after any refusal that lasts. ``buckets``: how many the store has, and ``one_server``, whether one commit may move several of
    them. ``commit_rows`` bounds the rows that one commit changes, ``slab_bytes`` the memory of all slabs together.
    """

    def __init__(
        self, project: Project, source: Source, *, slab_bytes: int, commit_rows: int = limits.COMMIT_ROWS, buckets: int = 1,
        one_server: bool = True, records: Records | None = None,
    ) -> None:
        self.source = source
        self.layouts = {view.id: Layout.of(view, source) for view in project.views_of(source.name)}
        self.view_ids = tuple(self.layouts)
        self._keys = Keys(project.name, buckets)
        share = slab_bytes // max(1, sum(len(layout.all) for layout in self.layouts.values()))
        published = {view.id: view for view in project.views_of(source.name) if view.publish}
        self._slabs: dict[str, tuple[Slab, ...]] = {
            view_id: (
                Slab(layout, self._keys, share, publishes=view_id in published),
                *(CellSlab(one, self._keys, share, publishes=view_id in published, rows=layout) for one in layout.cells),
            )
            for view_id, layout in self.layouts.items()
        }
        self._forms = {view_id: EventForm(rows, cells) for view_id, (rows, *cells) in self._slabs.items()}
        self._each = [(view_id, slab) for view_id, slabs in self._slabs.items() for slab in slabs]
        self._publishers = {
            view_id: Publisher(view, source, self._keys, self._slabs[view_id]) for view_id, view in published.items()
        }
        fields = {name for layout in self.layouts.values() for name in layout.fields}
        self.columns = tuple(sorted(fields))
        self._decoder = Decoder(source, columns=self.columns, records=records)
        self._ids = None if source.dedupe is None else KeptIds(source, self._keys)
        self._commit_rows, self._commit_keys, self._one_server = commit_rows, min(commit_rows, limits.COMMIT_KEYS), one_server

    @property
    def batch_records(self) -> int:
        """How many records at once change rows of no more than ``limits.BATCH_BYTES`` in memory, unless that is too few."""
        each = sum(8 * slab.layout.width * slab.layout.rows_per_event for _, slab in self._each)
        return max(limits.LEAST_RECORDS, limits.BATCH_BYTES // each)

    def judge(self, batch: Batch, stand: Stand) -> Judged:
        """Decode the batch, which begins where these tracks stand, and decide on each record: a pure function of the log up to it."""
        decoded = self._decoder.decode(batch)
        events, dead = decoded.events, decoded.dead
        verdict = accept.judge(events, stand.max_time_us, self.source)
        if not verdict.accepted.all():
            future = decoded.places[~verdict.accepted]
            dead = dead + letters(batch, future.tolist(), "future", "the event time is too far ahead of the log")
        takes, late = {}, {}
        for view_id, numbers in stand.numbers().items():
            layout = self.layouts[view_id]
            present = _present(events.columns[layout.key_field])
            if len(numbers) < len(self._keys.buckets):             # what is of others was put aside when they came by
                present &= self._in_buckets(events.columns[layout.key_field], present, numbers)
            too_late = accept.late(layout, events, verdict) & present
            if too_late.any():
                late[view_id] = int(too_late.sum())
                dead = dead + letters(batch, decoded.places[too_late].tolist(), "late", "older than the longest window", view_id)
            taken = verdict.accepted & ~too_late & present
            if layout.widths and (wide := accept.too_wide(layout, events, taken)).any():
                detail = "a string is longer than the width= that this view keeps of it"
                dead = dead + letters(batch, decoded.places[wide].tolist(), "too_wide", detail, view_id)
                taken &= ~wide
            takes[view_id] = taken
        return Judged(batch, events, verdict.running_max_us, takes, late, dead, decoded.places, stand, {})

    def _in_buckets(self, column: NDArray[Any], present: NDArray[np.bool_], numbers: Sequence[int]) -> NDArray[np.bool_]:
        chosen, found = np.flatnonzero(present), np.zeros(len(column), np.bool_)
        found[chosen] = np.isin([self._keys.number(entity_id) for entity_id in ids_in(column[chosen])], numbers)
        return found

    def load(self, online: OnlineStore, judged: Judged) -> None:
        """Find every entity of the batch, and bring those that are not cached into their slab, as the store holds them under our token.

        An event whose entity is folded from another partition becomes a dead letter of the view: its producer does not partition by the
        field that the source is keyed by, and rows of two partitions in one state would have no order.
        """
        partition = judged.batch.partition
        judged.slots.clear()               # of an earlier call, before keys had expired
        read: dict[bytes, bytes | None] = {}
        for view_id, slab in self._each:
            takes = judged.takes.get(view_id)
            if takes is None:
                continue
            chosen = np.flatnonzero(takes)
            slab.evict()
            ids = slab.ids(judged.events, chosen)
            slots = slab.find(partition, ids)
            unknown = np.flatnonzero(slots < 0)
            strangers = [ids[i] for i in unknown.tolist()]
            absent = list(dict.fromkeys(strangers))
            rows, *cells = self._slabs[view_id]
            if slab is rows:               # cells that are here alone may be of a state that has expired since
                for one in cells:
                    one.forget(partition, absent)
            at_once = min(READ_KEYS, max(1, limits.COMMIT_ROWS // slab.weight))
            for start in range(0, len(absent), at_once):
                some = absent[start : start + at_once]
                beside = self._beside(online, read, view_id, slab, partition, some)
                keys = [slab.key(partition, entity_id) for entity_id in some]
                values = online.read(keys)
                if cells:                  # are read beside them
                    read.update(zip(keys, values, strict=True))
                for entity_id, owner in slab.load(partition, some, values, beside, keys).items():
                    self._put_aside(judged, view_id, chosen[[other == entity_id for other in ids]], entity_id, owner)
            if absent:
                slots[unknown] = slab.find(partition, strangers)
            everywhere = np.full(len(takes), -1, np.int64)
            everywhere[chosen] = slots
            judged.slots.setdefault(view_id, []).append(everywhere)

    def _put_aside(self, judged: Judged, view_id: str, events: Index, entity_id: Id, owner: int) -> None:
        """These events are of an entity that the view folds from the partition ``owner``."""
        judged.takes[view_id][events] = False
        detail = (
            f"{self.source.name} is keyed by {self.source.keyed_by!r}, and the state of {entity_id!r} is folded from "
            f"partition {owner}: this event's producer partitions by something else"
        )
        judged.dead.extend(letters(judged.batch, judged.places[events].tolist(), "wrong_partition", detail, view_id))

    def _beside(
        self, online: OnlineStore, read: dict[bytes, bytes | None], view_id: str, slab: Slab, partition: int, ids: Sequence[Id]
    ) -> list[bytes | None]:
        """The values of the rows that cells of these entities are beside: those ``read`` already, and the others."""
        rows = self._slabs[view_id][0]
        if slab is rows:
            return []
        keys = [rows.key(partition, entity_id) for entity_id in ids]
        missing = [key for key in keys if key not in read]
        read.update(zip(missing, online.read(missing) if missing else [], strict=True))
        return [read[key] for key in keys]

    def tell_duplicates(self, online: OnlineStore, owned: Owned, judged: Judged) -> None:
        """Have no track fold an event that it has folded before. Once for each batch, after its first ``load``."""
        if self._ids is None:
            return
        partition, events = judged.batch.partition, judged.events
        buckets: dict[str, Index] = {}     # view id -> (n,) the bucket's number of each event that it takes, else -1
        for view_id, slots in judged.slots.items():
            chosen = judged.takes[view_id].nonzero()[0]
            buckets[view_id] = np.full(len(events), -1)
            buckets[view_id][chosen] = self._slabs[view_id][0].buckets(slots[0][chosen])
        for track in judged.stand.tracks:
            taken = judged.takes[track.view_id]
            self._ids.load(online, partition, track, owned.offsets[track], owned.maxima[track])
            if not (mine := buckets[track.view_id] == track.bucket.number).any():
                continue
            duplicate = self._ids.judge(partition, track, events, self.layouts[track.view_id].key_field, mine, judged.running_max_us)
            if duplicate.any():
                judged.duplicates[track.view_id] = judged.duplicates.get(track.view_id, 0) + int(duplicate.sum())
                taken[duplicate] = False

    def shares(self, judged: Judged) -> list[Share]:
        """Of the buckets that stand where the batch begins: one for each, or, where one commit may move several, as few as have half the
        keys and rows of a commit each. A key that several events of a batch change is written once for its share, so a large batch has one
        for each bucket."""
        tracks: dict[Bucket, list[Track]] = {}
        for track in judged.stand.tracks:
            tracks.setdefault(track.bucket, []).append(track)
        each, count = list(tracks.values()), len(tracks)
        if self._one_server:
            events = {view_id: int(takes.sum()) for view_id, takes in judged.takes.items()}
            keys = sum(number * len(self._slabs[view_id]) for view_id, number in events.items())                    # at most
            rows = sum(number * sum(slab.weight for slab in self._slabs[view_id]) for view_id, number in events.items())
            count = min(count, 1 + max(keys // max(1, self._commit_keys // 2), rows // max(1, self._commit_rows // 2)))
        return [
            Share(tuple(track for mine in each[len(each) * i // count : len(each) * (i + 1) // count] for track in mine))
            for i in range(count)
        ]

    def fold(self, judged: Judged, shares: Sequence[Share]) -> None:
        """Fold what follows what the shares have committed, each cut into as many parts as it needs: at least one."""
        of, placed, staying = self._place(judged, shares)
        ends = self._cut(shares, of, placed, len(judged.events))
        stops = [stop for own in ends for stop in own]
        commit_of = {view_id: commits_of(of_events, ends) for view_id, of_events in of.items()}
        folded = [slab.fold(one, commit_of[view_id], len(stops)) for view_id, slab, one in placed]
        folded += [self._forms[view_id].fold(few, commit_of[view_id], len(stops)) for view_id, few in staying.items()]
        judged.folded.extend((slab, slab.pending) for _, slab, _ in placed)
        if self._publishers:
            folded += self._published(judged, stops)
        writes, rows = [Writes()] * len(stops), [0] * len(stops)
        for changes in folded:
            for i, (changed, count) in enumerate(changes):
                writes[i] += changed
                rows[i] += count
        at = 0
        for share, own in zip(shares, ends, strict=True):
            share.folded(list(map(Part, own, writes[at:], rows[at:])))
            at += len(own)

    def _place(
        self, judged: Judged, shares: Sequence[Share]
    ) -> tuple[dict[str, Index], list[tuple[str, Slab, Placed]], dict[str, Staying]]:
        """Of each view: the number of each event's share (n,), of those that are not folded none; in each slab, the rows that the others
        change; and those of entities that stay few events."""
        first = min(share.start for share in shares)
        watermark_us = int(judged.running_max_us[first - 1]) if first else judged.stand.max_time_us
        of: dict[str, Index] = {}
        placed: list[tuple[str, Slab, Placed]] = []
        staying: dict[str, Staying] = {}
        for view_id in judged.takes:
            of[view_id], chosen = self._choose(judged, view_id, shares, first)
            if not len(chosen):
                continue
            slots = [every[chosen] for every in judged.slots[view_id]]
            if (few := self._forms[view_id].settle(judged.events, chosen, slots, watermark_us)) is not None:
                staying[view_id] = few
            for slab, those in zip(self._slabs[view_id], slots, strict=True):
                one = slab.place(judged.batch.partition, judged.events, chosen, those, watermark_us)
                if len(one.entities):
                    placed.append((view_id, slab, one))
        return of, placed, staying

    def _choose(self, judged: Judged, view_id: str, shares: Sequence[Share], first: int) -> tuple[Index, Index]:
        """(n,) the number of each event's share, and the places of those that the view folds: none before ``first``, and none that its
        share has committed past."""
        n = len(judged.events)
        of, chosen = np.full(n, len(shares)), first + np.flatnonzero(judged.takes[view_id][first:])
        of[chosen] = 0
        alone = len(shares[0].tracks) == len(judged.stand.tracks)  # the share of all buckets
        if not alone and len(chosen):
            share_of, starts = self._of_buckets(view_id, shares, n)
            buckets = self._slabs[view_id][0].buckets(judged.slots[view_id][0][chosen])
            of[chosen] = share_of[buckets]
            chosen = chosen[chosen >= starts[buckets]]
        return of, chosen

    def _published(self, judged: Judged, stops: Sequence[int]) -> list[list[tuple[Writes, int]]]:
        """What each commit of the slabs' last ``fold`` publishes, and of how many entities. Each ends at one of ``stops``."""
        partition, instants_us = judged.batch.partition, [judged.reach(stop)[1] for stop in stops]
        values = [[(writes, len(writes)) for writes in publisher.writes(partition, instants_us)] for publisher in self._publishers.values()]
        for _, slab in self._each:
            slab.published()
        return values

    def _of_buckets(self, view_id: str, shares: Sequence[Share], none: int) -> tuple[Index, Index]:
        """Of each of the view's buckets, the number of its share, and up to where that is committed: ``none`` where it is of no share."""
        numbers, starts = np.full(len(self._keys.buckets), len(shares)), np.full(len(self._keys.buckets), none)
        for number, share in enumerate(shares):
            mine = [track.bucket.number for track in share.tracks if track.view_id == view_id]
            numbers[mine], starts[mine] = number, share.start
        return numbers, starts

    def _cut(self, shares: Sequence[Share], of: dict[str, Index], placed: Sequence[tuple[str, Slab, Placed]], n: int) -> list[list[int]]:
        """Of each share, where its parts end."""
        if not placed:
            return [[n] for _ in shares]
        rows, keys, whole = [], [], []
        for view_id, slab, one in placed:
            changed = one.rows.times(slab.weight)
            rows.append((of[view_id][changed.places], *changed))
            keys.append((of[view_id][one.keys.places], *one.keys))
            whole.append((of[view_id][one.whole.places], *one.whole))
            if slab.publishes:
                values = one.keys.times(self._publishers[view_id].weight)
                rows.append((of[view_id][values.places], *values))
                keys.append(keys[-1])
        each = (by_share(found, len(shares)) for found in (rows, keys, whole))
        return [
            cuts([(Changes(*of_rows), self._commit_rows), (Changes(*of_keys), self._commit_keys)], Whole(*written), share.start, n,
                 rewritten=limits.ROLL_UP_ROWS)
            for share, of_rows, of_keys, written in zip(shares, *each, strict=True)
        ]  # fmt: skip

    def commit(self, owned: Owned, judged: Judged, share: Share) -> Commit:
        """The share's next one to send, which begins where the one before it ends, whatever becomes of that: the offset says."""
        part, sent = share.parts[share.sent], share.sent
        to_offset, max_time_us = judged.reach(part.stop)
        begins = {track: judged.reach(share.parts[sent - 1].stop)[0] if sent else owned.offsets[track] for track in share.tracks}
        advances = tuple(Advance(track.view_id, begins[track], to_offset, track.bucket) for track in share.tracks)
        share.sent += 1
        complete_ms = owned.ends.complete_ms(to_offset)
        partition, writes = owned.partition.partition, part.writes
        if self._ids is not None:
            for track in share.tracks:
                writes += self._ids.writes(partition, track, to_offset, max_time_us)
        return Commit(self.source.name, partition, owned.token, advances, max_time_us, writes, complete_ms)

    def begin(self, partition: int) -> None:
        """Commits are packed from now on, and none of the partition are on their way."""
        if self._ids is not None:
            self._ids.begin(partition)

    def committed(self, judged: Judged, shares: Sequence[Share]) -> None:
        """All of the batch's last ``fold`` that was not applied is forgotten."""
        times_ms: list[int] = []
        for share in shares:
            times_ms += share.times_ms + [-1] * (len(share.parts) - len(share.times_ms))
        for slab, pending in judged.folded:
            slab.committed(times_ms, pending)
        judged.folded.clear()

    def moved(self, commit: Commit) -> None:
        """The commit was applied."""
        if self._ids is not None:
            for advance in commit.advances:
                self._ids.moved(commit.partition, advance.track, advance.to_offset, commit.max_time_us)

    def drop(self, partition: int) -> None:
        """Forget everything of a partition: its rows live and die with its token."""
        for _, slab in self._each:
            slab.drop(partition)
        if self._ids is not None:
            self._ids.drop(partition)


def _present(column: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a key column holds an id: not None, not NaN."""
    nothing: Any = None
    present: NDArray[np.bool_] = np.not_equal(column, nothing) if column.dtype == object else ~np.isnan(column)
    return present
