"""What is wrong with what is applied: state that was lost, topics that are not those that were read."""

from __future__ import annotations

from contextlib import suppress

from featureflow.define import spec
from featureflow.define.system import all_sources
from featureflow.errors import LogError, OffsetMissingError
from featureflow.store.keys import Bucket, buckets
from featureflow.store.ledger import Ledger, Position
from featureflow.store.log.loss import created_again
from featureflow.store.log.protocol import Log, TopicState
from featureflow.store.mirror import buckets_of, mirrored, partitions_of
from featureflow.store.online import loss
from featureflow.store.online.protocol import DROPPED, OnlineStore


class Inspection:
    """Looks, and changes nothing. What it says names what to do. Raises UnavailableError."""

    def __init__(self, ledger: Ledger, online: OnlineStore, log: Log) -> None:
        self._ledger, self._online, self._log = ledger, online, log

    def lost(self, project: spec.Project) -> dict[str, str]:
        """View id -> what is wrong, for views whose offset records were made and are now absent, dirty or of another format, and for
        those whose rebuild was cut short."""
        found: dict[str, str] = {}
        versions = self._ledger.versions()
        for view in project.views:
            if view.id in versions and versions[view.id].state in ("dropping", "dropped"):
                found[view.id] = loss.dropped(view.id, ", ".join(view.sources))
            for position in self._ledger.positions(view.id):
                if problem := self.problem(position):
                    found.setdefault(view.id, problem)
        return found

    def strayed(self, project: spec.Project) -> dict[str, str]:
        """Source -> what is wrong with its topic: it is gone, was created again, or has other partitions than are applied."""
        found: dict[str, str] = {}
        for source in all_sources(project):
            try:
                topic = self._log.topic(source.topic)
            except LogError as error:
                found[source.name] = str(error)
                continue
            if problem := self._of_other_topic(project, source, topic):
                found[source.name] = f"{problem}. Then run: featureflow apply"
            elif (count := partitions_of(self._online, source.name)) not in (None, topic.partitions):
                found[source.name] = (
                    f"source {source.name} is applied with {count} partitions, its topic has {topic.partitions}. Run: featureflow apply"
                )
        return found

    def emptied(self, applied: spec.Project | None) -> bool:
        """Whether definitions were applied whole, and the online store has lost them and all state."""
        return applied is not None and mirrored(self._online) is None and bool(self.lost(applied))

    def problem(self, position: Position) -> str:
        """What is wrong with the position in the first bucket in which something is, or nothing. Of one that is planned, only that a
        rebuild of its view was cut short."""
        problems = (self._problem_in(bucket, position) for bucket in buckets(buckets_of(self._online)))
        return next((problem for problem in problems if problem), "")

    # -- inside --------------------------------------------------------------------------------------------------------

    def _problem_in(self, bucket: Bucket, position: Position) -> str:
        view_id, place = position.view_id, loss.where(position.source, position.partition_id, bucket)
        try:
            record = self._online.offsets(position.source, position.partition_id, [view_id], bucket)[view_id]
        except OffsetMissingError as error:
            said = str(error)
        else:
            if record is not None and record.dirty == DROPPED:
                return loss.dropped(view_id, place)
            if record is not None and record.dirty == -1:
                return ""
            said = loss.gone(view_id, place) if record is None else loss.dirty(view_id, place, record)
        return said if position.state == "created" else ""

    def _of_other_topic(self, project: spec.Project, source: spec.Source, topic: TopicState) -> str:
        """As a worker says that is to claim it; for what no view is folded from, as ``apply`` says it."""
        for view in project.views_of(source.name):
            for position in self._ledger.positions(view.id):
                if position.source != source.name:
                    continue
                partition = position.partition_id
                with suppress(OffsetMissingError):         # ``lost`` says so
                    stored = self._online.offsets(source.name, partition, [view.id], buckets(buckets_of(self._online))[0])[view.id]
                    if stored is not None and stored.dirty != DROPPED and stored.topic_id != topic.topic_id:
                        return loss.other_topic(view.id, f"{source.name}/{partition}", stored, topic.topic_id)
        applied = self._ledger.topic(source.name)
        if applied is None or applied.topic_id == topic.topic_id:
            return ""
        return created_again(f"topic {source.topic!r} of event {source.name!r}", topic.topic_id, applied.topic_id)
