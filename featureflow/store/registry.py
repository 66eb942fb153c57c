"""Which definitions are applied: recorded in SQL, mirrored in the online store, so that workers and scorers read them there."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress

import msgspec
from msgspec.structs import asdict, replace

from featureflow.clock import Clock, SystemClock
from featureflow.define import spec
from featureflow.define.system import all_sources, averages_topic, scores
from featureflow.errors import (
    LogError,
    OffsetMissingError,
    SettingsError,
    StateError,
    TablesMissingError,
    UnavailableError,
)
from featureflow.store.history.protocol import Extent, HistoryStore, Statement
from featureflow.store.inspection import Inspection
from featureflow.store.ledger import AppliedTopic, Ledger, ViewVersion
from featureflow.store.log.loss import created_again
from featureflow.store.log.protocol import Log, TopicState
from featureflow.store.mirror import (
    BUCKETS_DOCUMENT,
    OWNER_DOCUMENT,
    PROJECT_DOCUMENT,
    buckets_of,
    mirrored,
    partitions_document,
    partitions_of,
    project_of,
    watched_document,
)
from featureflow.store.online.protocol import OnlineStore
from featureflow.store.plan import Change, Plan, plan
from featureflow.store.releases import Releases


class Registry:
    """``apply`` may be run again at any time, also after it was cut short: every step does only what is missing."""

    def __init__(
        self, history: HistoryStore, online: OnlineStore, log: Log, clock: Clock | None = None, *, buckets: int | None = None,
        buckets_at_first: int = 1,
    ) -> None:
        """``buckets``: how many states are to be in, and no other number is accepted; None: as many as they are in, and of a project
        that is new ``buckets_at_first``."""
        self._history, self._online, self._log = history, online, log
        self._buckets, self._buckets_at_first = buckets, buckets_at_first
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._ledger = Ledger(history)
        self.inspection = Inspection(self._ledger, online, log)
        self.releases = Releases(history, online)

    def current(self) -> spec.Project | None:
        """What is applied now, from the mirror; from SQL where the mirror is empty, does not answer or cannot be read.

        Raises StateError where another version of FeatureFlow wrote it.
        """
        try:
            project = mirrored(self._online)
        except (UnavailableError, StateError):
            project = None
        if project is not None:
            return project
        try:
            document = self._ledger.definition()
        except TablesMissingError:
            return None
        return None if document is None else project_of(document)

    def plan(self, project: spec.Project) -> Plan:
        """What ``apply`` would change. Brings the fixed tables of the history database up to date, and nothing else.

        Raises SettingsError where a store holds another project; LogError and HistoryError where an event cannot be changed so.
        """
        self._history.migrate()
        self.check_owner(project.name)
        for source in project.sources:
            self._refuse_other_topic(source)
            self._history.check_source(source)
        try:
            before = self.current()
        except StateError:                 # of another version: nothing in it can be compared
            before = None
        versions = self._ledger.versions().values()
        changes = plan(before, project, kept={version.view_id for version in versions if version.state == "retired"}).changes
        return Plan((*changes, *self._more_partitions(project)))

    def apply(self, project: spec.Project, *, partitions: int | Mapping[str, int] = 1) -> Plan:
        """Make ``project`` the one that workers fold and scorers serve.

        1. history belongs to this project, and so do its keys in the online store; history tables, a column for each new field
        2. topics, the system's own two included; ``partitions`` (one number, or by source name; else 1) for those that do not exist yet
        3. record in SQL: definition, topics, view versions, and where each view version begins to fold
        4. history's offsets, at the log's beginning
        5. how many buckets states are in, for good;
           offset records of new view versions in each, at the first event that history or the log still has (see ``beginnings``)
        6. partition counts, releases and where sources are watched from, then the project itself, into the mirror: from here on it is
           served

        Raises SettingsError where a store holds another project, or this one in another number of buckets; LogError where an event has
        another topic than before, its topic was recreated, or has other partitions than before though the event is ``keyed_by`` an id;
        OffsetMissingError where an offset record that was made once is gone.
        """
        return self._apply(project, partitions)

    def _apply(self, project: spec.Project, partitions: int | Mapping[str, int], anew: frozenset[str] = frozenset()) -> Plan:
        changes = self.plan(project)
        self._refuse_other_buckets(project)
        sources = all_sources(project)
        # 1
        self._own(project.name)
        for source in sources:
            self._history.ensure_source(source, added=self._undeclared(source) if source in project.sources else ())
        # 2
        topics = {source.name: self._topic(source, partitions) for source in sources}
        for source in project.sources:
            self._refuse_moved_ids(source, topics[source.name])
        if project.alerts:
            self._log.ensure_topic(averages_topic(project.name), topics[scores(project.name).name].partitions, compacted=True)
        # 3
        self._record(project, topics)
        # 4
        for name, topic in topics.items():
            self._history.create_offsets(name, topic.beginning)
        # 5
        settled = self._settle_buckets()
        for view in project.views:
            self._create_offsets(view, settled, anew=view.id in anew)
        # 6
        for name, topic in topics.items():
            self._online.put_meta(partitions_document(name), str(topic.partitions).encode())
        self.releases.mirror()
        for alert in project.alerts:
            name = watched_document(alert.model, alert.source)
            if self._online.get_meta(name) is None:
                self._online.put_meta(name, msgspec.json.encode(topics[alert.source].end))
        self._online.put_meta(PROJECT_DOCUMENT, msgspec.json.encode(project))
        return changes

    def _undeclared(self, source: spec.Source) -> list[str]:
        """Fields that the event was not declared with when it was applied last: rows were written without them."""
        try:
            before = self.current()
        except StateError:                 # of another version: any field may be new
            before = None
        known = next((one for one in before.sources if one.name == source.name), None) if before is not None else None
        return [field.name for field in source.fields if known is None or field.name not in known.by_name]

    def check_owner(self, project: str) -> None:
        """Raises SettingsError where history belongs to a project of another name, or the keys in the online store to another history."""
        try:
            owner = self._ledger.owner()
        except TablesMissingError:         # nothing was applied here
            owner = None
        if owner is not None and owner.project != project:
            raise SettingsError(
                f"the history database holds the project {owner.project!r}, and this one is {project!r}. Point history.url at a "
                f"database of its own, or set project.name to {owner.project!r} if it is the same"
            )
        mirror = self._online.get_meta(OWNER_DOCUMENT)
        if mirror is not None and mirror != (b"" if owner is None else owner.registry_id.encode()):
            raise SettingsError(
                f"the online store holds a project {project!r} that was applied with another history database. Set project.name to another "
                "name; or, if it is the same project, point history.url at that database. Where that one is lost, online.url must "
                "point at an empty database"
            )

    def retired(self) -> list[str]:
        """View versions that no project uses any more and whose state is still in the online store."""
        return [view_id for view_id, version in self._ledger.versions().items() if version.state in ("retired", "dropping")]

    def drop_retired(self) -> dict[str, int]:
        """Delete the state of retired view versions: view id -> how many keys went.

        Only once no scorer serves them any more. Marked before and after, so that one cut short is finished by the next.
        """
        return {view_id: self._drop(view_id, for_good=True) for view_id in self.retired()}

    def withdraw(self, project: spec.Project) -> int:
        """Delete published values that are of no view version that the project publishes: how many went."""
        return self._online.withdraw([view.id for view in project.views if view.publish])

    def rebuild(self, project: spec.Project, view_ids: Iterable[str]) -> None:
        """Drop what is left of these views' state and start them again at the first event that history or the log still has.

        Where another number of buckets is wanted than states are in, the project's views must all be among them (else SettingsError),
        and begin anew in that number.

        A worker that holds one of them is refused at its next commit, and waits with that partition until the view begins anew. Cut
        short, it is finished by the next rebuild of the same view, or by ``apply``. Events that the log has deleted are folded from
        history; what neither has is not folded again.
        Raises LogError, before anything is dropped, where a topic was recreated: nothing could be folded from it. UnavailableError where
        the old state cannot be seen to be gone, StateError where it came back: both are cured by running it again.
        """
        self._history.migrate()
        sources = all_sources(project)
        applied = (self._ledger.topic(source.name) for source in sources)
        partitions = {topic.source: topic.partitions for topic in applied if topic is not None}
        for source in project.sources:
            self._topic(source, partitions)
        view_ids = list(view_ids)
        if not {view.id for view in project.views} <= set(view_ids):
            self._refuse_other_buckets(project)
        for view_id in view_ids:
            self._drop(view_id, for_good=False)
        if self._buckets not in (None, buckets_of(self._online)):
            for view_id in self.retired():     # nothing could go on where these were left: they are in the other buckets
                self._drop(view_id, for_good=True)
        if self._buckets is not None:
            self._online.put_meta(BUCKETS_DOCUMENT, b"%d" % self._buckets)
        self._apply(project, partitions, anew=frozenset(view_ids))

    # -- inside --------------------------------------------------------------------------------------------------------

    def _more_partitions(self, project: spec.Project) -> list[Change]:
        found = []
        for source in project.sources:
            if (had := partitions_of(self._online, source.name)) is None:
                continue
            with suppress(LogError):           # ``apply`` makes it, or says what is wrong
                if had != (has := self._log.topic(source.topic).partitions):
                    found.append(Change("change", "event", source.name, f"partitions {had} -> {has}"))
        return found

    def _own(self, project: str) -> None:
        """After ``check_owner``; the first apply takes both stores."""
        if self._ledger.owner() is None:
            self._history.execute([Statement("record_owner", {"project": project, "registry_id": uuid.uuid4().hex})])
        owner = self._ledger.owner()
        assert owner is not None
        self._online.put_meta(OWNER_DOCUMENT, owner.registry_id.encode())

    def _refuse_other_topic(self, source: spec.Source) -> None:
        applied = self._ledger.topic(source.name)
        if applied is not None and applied.topic != source.topic:
            raise LogError(
                f"event {source.name!r} was applied with topic {applied.topic!r} and now has {source.topic!r}: history holds its "
                "events by partition and offset of the one topic, and would skip as many of the other's. Give the event a new "
                "name as well, or its topic as it was"
            )

    def _topic(self, source: spec.Source, partitions: int | Mapping[str, int]) -> TopicState:
        self._refuse_other_topic(source)
        applied = self._ledger.topic(source.name)
        wanted = partitions if isinstance(partitions, int) else partitions.get(source.name, 1)
        self._log.ensure_topic(source.topic, wanted)
        topic = self._log.topic(source.topic)
        if applied is not None and applied.topic_id != topic.topic_id:
            raise LogError(created_again(f"topic {source.topic!r} of event {source.name!r}", topic.topic_id, applied.topic_id))
        return topic

    def _refuse_moved_ids(self, source: spec.Source, topic: TopicState) -> None:
        applied = self._ledger.topic(source.name)
        if applied is None or applied.topic != source.topic or source.keyed_by is None:
            return
        if applied.partitions != topic.partitions:
            raise LogError(
                f"topic {source.topic!r} has {topic.partitions} partitions and had {applied.partitions}: event {source.name!r} is "
                f"keyed by {source.keyed_by!r}, and its ids move between partitions. Remove keyed_by="
            )

    def _record(self, project: spec.Project, topics: Mapping[str, TopicState]) -> None:
        now, live = self._clock.now_us(), {view.id for view in project.views}
        versions = self._ledger.versions()
        for version in versions.values():
            if version.state == "dropping":
                self._drop(version.view_id, for_good=version.view_id not in live)
        statements: list[Statement] = []
        document = msgspec.json.encode(project).decode()
        if self._ledger.definition() != document:
            statements.append(Statement("record_definition", {"applied_at_us": now, "project": document}))
        for source in all_sources(project):
            applied = AppliedTopic(source.name, source.topic, topics[source.name].topic_id, topics[source.name].partitions)
            if self._ledger.topic(source.name) != applied:
                statements += [Statement("forget_topic", {"source": source.name}), Statement("record_topic", asdict(applied))]
        for view in project.views:
            version = ViewVersion(view.id, "live", now, msgspec.json.encode(view).decode())
            before = versions.get(view.id)
            if before is None:
                statements.append(Statement("record_view_version", asdict(version)))
            elif before.state != "live" or before.definition != version.definition:
                statements.append(Statement("change_view_version", asdict(version)))
            planned = {(position.source, position.partition_id) for position in self._ledger.positions(view.id)}
            for name in view.sources:
                for partition, beginning in sorted(beginnings(topics[name], self._history.extents(name)).items()):
                    if (name, partition) not in planned:
                        position: dict[str, object] = {
                            "view_id": view.id, "source": name, "partition_id": partition,
                            "topic_id": topics[name].topic_id, "beginning": beginning,
                        }
                        statements.append(Statement("plan_position", position))
        for version in versions.values():
            if version.state == "live" and version.view_id not in live:
                retired = replace(version, state="retired", changed_at_us=now)
                statements.append(Statement("change_view_version", asdict(retired)))
        self._history.execute(statements)

    def _settled_buckets(self) -> int | None:
        """As the online store says; where that lost it, as was recorded; None before the first apply."""
        document = self._online.get_meta(BUCKETS_DOCUMENT)
        return self._ledger.buckets() if document is None else int(document)

    def _settle_buckets(self) -> int:
        """How many buckets states are in from now on. Recorded, so that whoever reads published values finds them where they were
        when an online store that lost everything begins anew.
        """
        settled = self._settled_buckets() or self._buckets or self._buckets_at_first
        if self._ledger.buckets() != settled:
            self._history.execute([Statement("settle_buckets", {"buckets": settled})])
        self._online.put_meta(BUCKETS_DOCUMENT, b"%d" % settled)
        return settled

    def _refuse_other_buckets(self, project: spec.Project) -> None:
        has, wanted = self._settled_buckets(), self._buckets
        if has is not None and wanted not in (None, has):
            raise SettingsError(
                f"online.buckets is {wanted}, and the states of project {project.name!r} are in {has}: an entity would be looked for "
                f"where it is not. Set online.buckets = {has}; or, to fold every view again into {wanted} buckets from the log's "
                f"beginning, run: featureflow rebuild {' '.join(view.name for view in project.views)}"
            )

    def _create_offsets(self, view: spec.View, of: int, *, anew: bool) -> None:
        """Make the offset records of positions that are planned. Raises OffsetMissingError where one that was made is lost.

        ``anew``: the view was dropped just now. A record that is there all the same is the old one, brought back by a failover with the
        state that it belongs to. Else it is one that an ``apply`` that was cut short has made, and a worker may have moved on.
        """
        for position in self._ledger.positions(view.id):
            source, partition = position.source, position.partition_id
            if position.state == "planned":
                made = self._online.create_offsets(view.id, source, position.topic_id, {partition: position.beginning}, of)
                if anew and made != [partition]:
                    raise StateError(
                        f"view {view.id} was dropped, and its offset record for {source}/{partition} is there again: a failover of the "
                        f"online store took the drop back, or another command ran meanwhile. Run again: featureflow rebuild {view.name}"
                    )
                self._history.execute([Statement("position_created", {"view_id": view.id, "source": source, "partition_id": partition})])
            elif problem := self.inspection.problem(position):
                raise OffsetMissingError(problem)

    def _drop(self, view_id: str, *, for_good: bool) -> int:
        version = self._ledger.versions()[view_id]
        dropping = replace(version, state="dropping", changed_at_us=self._clock.now_us())
        places = [(position.source, position.partition_id) for position in self._ledger.positions(view_id)]
        self._history.execute([Statement("change_view_version", asdict(dropping))])
        dropped = self._online.drop_view(view_id, for_good=for_good, places=places, of=buckets_of(self._online))
        forget = Statement("forget_positions", {"view_id": view_id})
        self._history.execute([forget, Statement("change_view_version", asdict(replace(dropping, state="dropped")))])
        return dropped


def beginnings(topic: TopicState, held: Mapping[int, Extent]) -> dict[int, int]:
    """Partition -> the first offset from which on every event is in history or in the log.

    History counts where it reaches the log's beginning: with a gap between the two a state would silently lack what was in it.
    """
    found = {}
    for partition, beginning in topic.beginning.items():
        extent = held.get(partition)
        reaches = extent is not None and extent.first <= beginning <= extent.next
        found[partition] = extent.first if extent is not None and reaches else beginning
    return found
