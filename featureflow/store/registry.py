"""Which definitions are applied: recorded in SQL, mirrored in the online store, so that workers and scorers read them there."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress

import msgspec

from featureflow.clock import Clock, SystemClock
from featureflow.define import spec
from featureflow.define.system import system_sources
from featureflow.errors import (
    LogError,
    OffsetMissingError,
    SettingsError,
    StateError,
    TablesMissingError,
    UnavailableError,
)
from featureflow.store.history.protocol import Extent, HistoryStore, Statement
from featureflow.store.keys import Bucket, buckets
from featureflow.store.log.protocol import Log, TopicState
from featureflow.store.online.loss import other_topic, where
from featureflow.store.online.protocol import DROPPED, OnlineStore
from featureflow.store.plan import Change, Plan, plan

PROJECT_DOCUMENT = "project"               # JSON of define.spec.Project
BUCKETS_DOCUMENT = "buckets"               # how many buckets states are in, as decimal digits; absent: one
OWNER_DOCUMENT = "owner"                   # id of the history database that these definitions are registered in


def partitions_document(source: str) -> str:
    """Name of the meta document that holds a source's partition count, as decimal digits."""
    return f"partitions:{source}"


def mirrored(online: OnlineStore) -> spec.Project | None:
    """The applied project as the online store mirrors it; None before the first apply.

    Raises StateError where another version of FeatureFlow wrote it.
    """
    document = online.get_meta(PROJECT_DOCUMENT)
    return None if document is None else _project(document)


def buckets_of(online: OnlineStore) -> int:
    """How many buckets the project's states are in."""
    return int(online.get_meta(BUCKETS_DOCUMENT) or 1)


class Registry:
    """``apply`` may be run again at any time, also after it was cut short: every step does only what is missing."""

    def __init__(
        self, history: HistoryStore, online: OnlineStore, log: Log, clock: Clock | None = None, *, buckets: int | None = None
    ) -> None:
        """``buckets``: how many a project that is new to the online store is given, and no other number is accepted later; None:
        as many as it has, at first one."""
        self._history, self._online, self._log, self._buckets = history, online, log, buckets
        self._clock: Clock = clock if clock is not None else SystemClock()

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
            rows = self._history.query("newest_definition", {})
        except TablesMissingError:
            return None
        return _project(str(rows[0]["project"])) if rows else None

    def plan(self, project: spec.Project) -> Plan:
        """What ``apply`` would change. Brings the fixed tables of the history database up to date, and nothing else.

        Raises SettingsError where a store holds another project.
        """
        self._history.migrate()
        self.check_owner(project.name)
        try:
            before = self.current()
        except StateError:                 # of another version: nothing in it can be compared
            before = None
        rows = self._history.query("view_versions", {})
        changes = plan(before, project, kept={str(row["view_id"]) for row in rows if row["state"] == "retired"}).changes
        return Plan((*changes, *self._more_partitions(project)))

    def apply(self, project: spec.Project, *, partitions: int | Mapping[str, int] = 1) -> Plan:
        """Make ``project`` the one that workers fold and scorers serve.

        1. history belongs to this project, and so do its keys in the online store; history tables, a column for each new field
        2. topics, the system's own two included; ``partitions`` (one number, or by source name; else 1) for those that do not exist yet
        3. record in SQL: definition, topics, view versions, and where each view version begins to fold
        4. history's offsets, at the log's beginning
        5. how many buckets states are in, for good;
           offset records of new view versions in each, at the first event that history or the log still has (see ``beginnings``)
        6. partition counts, then the project itself, into the mirror: from here on it is served

        Raises SettingsError where a store holds another project, or this one in another number of buckets; LogError where an event has
        another topic than before, its topic was recreated, or has other partitions than before though the event is ``keyed_by`` an id;
        OffsetMissingError where an offset record that was made once is gone.
        """
        return self._apply(project, partitions)

    def _apply(self, project: spec.Project, partitions: int | Mapping[str, int], anew: frozenset[str] = frozenset()) -> Plan:
        changes = self.plan(project)
        self._refuse_other_buckets(project)
        sources = (*project.sources, *system_sources(project.name))
        # 1
        self._own(project.name)
        for source in sources:
            self._history.ensure_source(source)
        # 2
        topics = {source.name: self._topic(source, partitions) for source in sources}
        for source in project.sources:
            self._refuse_moved_ids(source, topics[source.name])
        # 3
        self._record(project, topics)
        # 4
        for name, topic in topics.items():
            self._history.create_offsets(name, topic.beginning)
        # 5
        if self._online.get_meta(BUCKETS_DOCUMENT) is None:
            self._online.put_meta(BUCKETS_DOCUMENT, b"%d" % (self._buckets or 1))
        for view in project.views:
            self._create_offsets(view, buckets_of(self._online), anew=view.id in anew)
        # 6
        for name, topic in topics.items():
            self._online.put_meta(partitions_document(name), str(topic.partitions).encode())
        self._online.put_meta(PROJECT_DOCUMENT, msgspec.json.encode(project))
        return changes

    def check_owner(self, project: str) -> None:
        """Raises SettingsError where history belongs to a project of another name, or the keys in the online store to another history."""
        try:
            owners = self._history.query("owner", {})
        except TablesMissingError:         # nothing was applied here
            owners = []
        if owners and owners[0]["project"] != project:
            raise SettingsError(
                f"the history database holds the project {owners[0]['project']!r}, and this one is {project!r}. Point history.url at a "
                f"database of its own, or set project.name to {owners[0]['project']!r} if it is the same"
            )
        mirror = self._online.get_meta(OWNER_DOCUMENT)
        if mirror is not None and mirror != (str(owners[0]["registry_id"]).encode() if owners else b""):
            raise SettingsError(
                f"the online store holds a project {project!r} that was applied with another history database. Set project.name to another "
                "name; or, if it is the same project, point history.url at that database. Where that one is lost, online.url must "
                "point at an empty database"
            )

    def retired(self) -> list[str]:
        """View versions that no project uses any more and whose state is still in the online store."""
        rows = self._history.query("view_versions", {})
        return [str(row["view_id"]) for row in rows if row["state"] in ("retired", "dropping")]

    def drop_retired(self) -> dict[str, int]:
        """Delete the state of retired view versions: view id -> how many keys went.

        Only once no scorer serves them any more. Marked before and after, so that one cut short is finished by the next.
        """
        return {view_id: self._drop(view_id, for_good=True) for view_id in self.retired()}

    def withdraw(self, project: spec.Project) -> int:
        """Delete published values that are of no view version that the project publishes: how many went."""
        return self._online.withdraw([view.id for view in project.views if view.publish])

    def lost(self, project: spec.Project) -> dict[str, str]:
        """View id -> what is wrong, for views whose offset records were made and are now absent, dirty or of another format, and for
        those whose rebuild was cut short."""
        found: dict[str, str] = {}
        states = {str(row["view_id"]): str(row["state"]) for row in self._history.query("view_versions", {})}
        for view in project.views:
            if states.get(view.id) in ("dropping", "dropped"):
                found[view.id] = _cut_short(view.id)
            for row in self._history.query("positions", {"view_id": view.id}):
                problem = self._problem(view.id, str(row["source"]), _int(row["partition_id"]))
                if problem and (row["state"] == "created" or problem == _cut_short(view.id)):
                    found.setdefault(view.id, problem)
        return found

    def strayed(self, project: spec.Project) -> dict[str, str]:
        """Source -> what is wrong with its topic, what to do included: it is gone, was created again, or has other partitions than are
        applied. Raises UnavailableError."""
        found: dict[str, str] = {}
        for source in (*project.sources, *system_sources(project.name)):
            try:
                topic = self._log.topic(source.topic)
            except LogError as error:
                found[source.name] = str(error)
                continue
            if problem := self._of_other_topic(project, source, topic):
                found[source.name] = f"{problem}. Then run: featureflow apply"
            elif (count := self._listed(source)) not in (None, topic.partitions):
                found[source.name] = (
                    f"source {source.name} is applied with {count} partitions, its topic has {topic.partitions}. Run: featureflow apply"
                )
        return found

    def emptied(self) -> bool:
        """Whether definitions were applied whole, and the online store has lost them and all state."""
        project = self.current()
        return project is not None and mirrored(self._online) is None and bool(self.lost(project))

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
        sources = (*project.sources, *system_sources(project.name))
        recorded = [row for source in sources for row in self._history.query("topic", {"source": source.name})]
        partitions = {str(row["source"]): _int(row["partitions"]) for row in recorded}
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

    def _listed(self, source: spec.Source) -> int | None:
        """How many partitions readers know of; None where the mirror does not say."""
        document = self._online.get_meta(partitions_document(source.name))
        return None if document is None else int(document)

    def _more_partitions(self, project: spec.Project) -> list[Change]:
        found = []
        for source in project.sources:
            if (had := self._listed(source)) is None:
                continue
            with suppress(LogError):           # ``apply`` makes it, or says what is wrong
                if had != (has := self._log.topic(source.topic).partitions):
                    found.append(Change("change", "event", source.name, f"partitions {had} -> {has}"))
        return found

    def _of_other_topic(self, project: spec.Project, source: spec.Source, topic: TopicState) -> str:
        """As a worker says that is to claim it; for what no view is folded from, as ``apply`` says it."""
        for view in project.views_of(source.name):
            for row in self._history.query("positions", {"view_id": view.id}):
                if row["source"] != source.name:
                    continue
                partition = _int(row["partition_id"])
                with suppress(OffsetMissingError):         # ``lost`` says so
                    stored = self._online.offsets(source.name, partition, [view.id], buckets(buckets_of(self._online))[0])[view.id]
                    if stored is not None and stored.dirty != DROPPED and stored.topic_id != topic.topic_id:
                        return other_topic(view.id, f"{source.name}/{partition}", stored, topic.topic_id)
        recorded = self._history.query("topic", {"source": source.name})
        return next((_created_again(source, topic, row) for row in recorded if row["topic_id"] != topic.topic_id), "")

    def _own(self, project: str) -> None:
        """After ``check_owner``; the first apply takes both stores."""
        if not self._history.query("owner", {}):
            self._history.execute([Statement("record_owner", {"project": project, "registry_id": uuid.uuid4().hex})])
        [owner] = self._history.query("owner", {})
        self._online.put_meta(OWNER_DOCUMENT, str(owner["registry_id"]).encode())

    def _topic(self, source: spec.Source, partitions: int | Mapping[str, int]) -> TopicState:
        recorded = self._history.query("topic", {"source": source.name})
        for row in recorded:
            if row["topic"] != source.topic:
                raise LogError(
                    f"event {source.name!r} was applied with topic {row['topic']!r} and now has {source.topic!r}: history holds its "
                    "events by partition and offset of the one topic, and would skip as many of the other's. Give the event a new "
                    "name as well, or its topic as it was"
                )
        wanted = partitions if isinstance(partitions, int) else partitions.get(source.name, 1)
        self._log.ensure_topic(source.topic, wanted)
        topic = self._log.topic(source.topic)
        for row in recorded:
            if row["topic_id"] != topic.topic_id:
                raise LogError(_created_again(source, topic, row))
        return topic

    def _refuse_moved_ids(self, source: spec.Source, topic: TopicState) -> None:
        for row in self._history.query("topic", {"source": source.name}):
            if row["topic"] == source.topic and source.keyed_by is not None and row["partitions"] != topic.partitions:
                raise LogError(
                    f"topic {source.topic!r} has {topic.partitions} partitions and had {row['partitions']}: event {source.name!r} is "
                    f"keyed by {source.keyed_by!r}, and its ids move between partitions. Remove keyed_by="
                )

    def _record(self, project: spec.Project, topics: Mapping[str, TopicState]) -> None:
        now, live = self._clock.now_us(), {view.id for view in project.views}
        states = {str(row["view_id"]): str(row["state"]) for row in self._history.query("view_versions", {})}
        definitions = {str(row["view_id"]): str(row["definition"]) for row in self._history.query("view_versions", {})}
        for view_id, state in states.items():
            if state == "dropping":
                self._drop(view_id, for_good=view_id not in live)
        statements: list[Statement] = []
        document = msgspec.json.encode(project).decode()
        newest = self._history.query("newest_definition", {})
        if not newest or newest[0]["project"] != document:
            statements.append(Statement("record_definition", {"applied_at_us": now, "project": document}))
        for source in (*project.sources, *system_sources(project.name)):
            topic = topics[source.name]
            row: dict[str, object] = {
                "source": source.name, "topic": source.topic, "topic_id": topic.topic_id, "partitions": topic.partitions,
            }
            if self._history.query("topic", {"source": source.name}) != [row]:
                statements += [Statement("forget_topic", {"source": source.name}), Statement("record_topic", row)]
        for view in project.views:
            version: dict[str, object] = {
                "view_id": view.id, "state": "live", "changed_at_us": now, "definition": msgspec.json.encode(view).decode(),
            }
            if view.id not in states:
                statements.append(Statement("record_view_version", version))
            elif states[view.id] != "live" or definitions[view.id] != version["definition"]:
                statements.append(Statement("change_view_version", version))
            planned = {(row["source"], row["partition_id"]) for row in self._history.query("positions", {"view_id": view.id})}
            for name in view.sources:
                for partition, beginning in sorted(beginnings(topics[name], self._history.extents(name)).items()):
                    if (name, partition) not in planned:
                        position: dict[str, object] = {
                            "view_id": view.id, "source": name, "partition_id": partition,
                            "topic_id": topics[name].topic_id, "beginning": beginning,
                        }
                        statements.append(Statement("plan_position", position))
        for view_id, state in states.items():
            if state == "live" and view_id not in live:
                retired = {"view_id": view_id, "state": "retired", "changed_at_us": now, "definition": definitions[view_id]}
                statements.append(Statement("change_view_version", retired))
        self._history.execute(statements)

    def _refuse_other_buckets(self, project: spec.Project) -> None:
        has, wanted = self._online.get_meta(BUCKETS_DOCUMENT), self._buckets
        if has is not None and wanted not in (None, int(has)):
            raise SettingsError(
                f"online.buckets is {wanted}, and the states of project {project.name!r} are in {int(has)}: an entity would be looked for "
                f"where it is not. Set online.buckets = {int(has)}; or, to fold every view again into {wanted} buckets from the log's "
                f"beginning, run: featureflow rebuild {' '.join(view.name for view in project.views)}"
            )

    def _create_offsets(self, view: spec.View, of: int, *, anew: bool) -> None:
        """A position is ``planned`` before its offset record is made and ``created`` after: one that is created and absent was lost.

        ``anew``: the view was dropped just now. A record that is there all the same is the old one, brought back by a failover with the
        state that it belongs to. Else it is one that an ``apply`` that was cut short has made, and a worker may have moved on.
        """
        for row in self._history.query("positions", {"view_id": view.id}):
            source, partition = str(row["source"]), _int(row["partition_id"])
            if row["state"] == "planned":
                made = self._online.create_offsets(view.id, source, str(row["topic_id"]), {partition: _int(row["beginning"])}, of)
                if anew and made != [partition]:
                    raise StateError(
                        f"view {view.id} was dropped, and its offset record for {source}/{partition} is there again: a failover of the "
                        f"online store took the drop back, or another command ran meanwhile. Run again: featureflow rebuild {view.name}"
                    )
                self._history.execute([Statement("position_created", {"view_id": view.id, "source": source, "partition_id": partition})])
            elif problem := self._problem(view.id, source, partition):
                raise OffsetMissingError(f"{problem}. To fold it again from history and the log, run: featureflow rebuild {view.name}")

    def _problem(self, view_id: str, source: str, partition: int) -> str:
        """What is wrong with the first bucket of which something is."""
        problems = (self._problem_in(bucket, view_id, source, partition) for bucket in buckets(buckets_of(self._online)))
        return next((problem for problem in problems if problem), "")

    def _problem_in(self, bucket: Bucket, view_id: str, source: str, partition: int) -> str:
        place = where(source, partition, bucket)
        try:
            record = self._online.offsets(source, partition, [view_id], bucket)[view_id]
        except OffsetMissingError:
            return f"the offset record of view {view_id} for {place} has a format that this version does not know"
        if record is None:
            return f"the offset record of view {view_id} for {place} was made and is gone: the online store has lost state"
        if record.dirty == DROPPED:
            return _cut_short(view_id)
        if record.dirty != -1:
            return f"a commit of view {view_id} for {place} broke half way to offset {record.dirty}"
        return ""

    def _drop(self, view_id: str, *, for_good: bool) -> int:
        row = next(row for row in self._history.query("view_versions", {}) if row["view_id"] == view_id)
        change = {"view_id": view_id, "changed_at_us": self._clock.now_us(), "definition": row["definition"]}
        places = [(str(row["source"]), _int(row["partition_id"])) for row in self._history.query("positions", {"view_id": view_id})]
        self._history.execute([Statement("change_view_version", {**change, "state": "dropping"})])
        dropped = self._online.drop_view(view_id, for_good=for_good, places=places, of=buckets_of(self._online))
        self._history.execute(
            [Statement("forget_positions", {"view_id": view_id}), Statement("change_view_version", {**change, "state": "dropped"})]
        )
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


def _created_again(source: spec.Source, topic: TopicState, recorded: Mapping[str, object]) -> str:
    return (
        f"topic {source.topic!r} of event {source.name!r} was deleted and created again (id {topic.topic_id}, was "
        f"{recorded['topic_id']}): its offsets name other events now than those in history. "
        "Give the event a new name, and a topic with a new name"
    )


def _cut_short(view_id: str) -> str:
    return f"a rebuild of view {view_id} is under way, or was cut short"


def _project(document: bytes | str) -> spec.Project:
    try:
        return msgspec.json.decode(document, type=spec.Project)
    except msgspec.MsgspecError as error:
        raise StateError(
            f"the definitions that are applied were written by another version of FeatureFlow ({error}). Run: featureflow apply"
        ) from error


def _int(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"an integer column came back as {value!r}")
    return value
