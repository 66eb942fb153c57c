"""What befalls them. Each fault is applied, waited out and noted; one that the design works through asks for progress meanwhile."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

import forked
import pymysql
import redis
from processes import until
from proxy import Cutter
from world import World

from featureflow.store.keys import buckets
from featureflow.store.mirror import buckets_of
from storm.members import Member
from storm.operations import Operations
from storm.servers import OwnServers

ANY_INSTANT = 10

Place = tuple[str, int]


@dataclass
class Stage:
    """Everything that a fault may touch."""

    world: World
    servers: OwnServers
    operations: Operations
    luck: random.Random
    workers: list[Member]
    writer: Member
    to_redis: Cutter
    to_mysql: Cutter
    takeovers_s: list[float] = field(default_factory=list)
    outages_s: list[float] = field(default_factory=list)

    @property
    def members(self) -> list[Member]:
        return [*self.workers, self.writer]

    def offsets(self) -> dict[Place, int]:
        """How far each partition is folded by all of its views, in every bucket."""
        project, online = self.world.project, self.world.context.online
        return {
            (source.name, partition): min(
                -1 if record is None else record.offset
                for bucket in buckets(buckets_of(online))
                for record in online.offsets(source.name, partition, [view.id for view in project.views_of(source.name)], bucket).values()
            )
            for source in project.sources
            for partition in self.world.context.log.topic(source.topic).end
        }

    def advances(self, what: str, places: Iterable[Place] | None = None) -> float:
        """Wait until each of these partitions (all) is folded further than now; in seconds."""
        began = time.monotonic()
        before = until(self.offsets, f"the offsets {what}")
        wanted = list(before if places is None else places)

        def moved() -> bool:
            for member in self.members:
                if member.process is not None and member.process.running():
                    continue
                assert member.process is None or member.process.wait() < 0, f"{member.name} ended {what}:\n{member.process.said()[-3000:]}"
            now = self.offsets()
            return all(now[place] > before[place] for place in wanted)

        until(moved, f"progress {what}", every=0.05)
        return time.monotonic() - began

    def history_offsets(self) -> dict[Place, int]:
        history = self.world.context.history
        return {(source, partition): at for source in ("ride", "tip") for partition, at in history.offsets(source).items()}

    def history_advances(self, what: str) -> None:
        before = until(self.history_offsets, f"history's offsets {what}")
        until(lambda: all(at > before[place] for place, at in self.history_offsets().items()), f"progress of history {what}", every=0.05)


Fault = Callable[[Stage], None]


def _killed(stage: Stage, *, with_events: bool) -> None:
    member = stage.writer if stage.luck.random() < 0.2 else stage.luck.choice(stage.workers)
    member.kill(with_events=with_events)
    member.start_again()


def killed(stage: Stage) -> None:
    """A consumer dies with events in hand and is started again."""
    _killed(stage, with_events=True)


def killed_at_any_instant(stage: Stage) -> None:
    """The same, whatever it is at: most of the time it waits, with nothing in hand."""
    _killed(stage, with_events=False)


def stays_dead(stage: Stage) -> None:
    """A worker dies and is not started again until the others have all of its partitions."""
    member = stage.luck.choice(stage.workers)
    began = time.monotonic()
    member.kill(with_events=True)
    stage.advances(f"while {member.name} stays dead")
    stage.takeovers_s.append(time.monotonic() - began)
    stage.operations.note(f"the others have the partitions of {member.name}, {stage.takeovers_s[-1]:.1f} s after its death")
    member.kills[-1].recovery_s = 0.0      # it has nothing to come back to
    member.start_again()


def paused(stage: Stage) -> None:
    """A worker stops past its session with a commit ready, a successor commits, and it wakes up."""
    member = stage.luck.choice(stage.workers)
    member.stop_before_its_next_commit()
    stage.operations.note(f"SIGSTOP {member.name} before a commit")
    took_s = stage.advances(f"while {member.name} is stopped")
    stage.takeovers_s.append(took_s)
    member.go_on()
    stage.operations.note(f"SIGCONT {member.name}, whose partitions were taken over in {took_s:.1f} s: refused")


def rebalances(stage: Stage) -> None:
    """Members come and go every one to three seconds."""
    stage.operations.note("members come and go")
    for n in range(3):
        hand = stage.world.folder / f"guest-{time.monotonic_ns()}.hand"
        guest = forked.start(stage.world, "ingest", **{**stage.workers[0].settings, "FEATUREFLOW_TEST_HAND": str(hand)})
        until(lambda guest=guest: '"claimed"' in guest.said() or not guest.running(), "a guest's share")  # type: ignore[misc]  # bound now
        if not guest.running():            # a server did not answer as it began, which it names: whoever keeps it would start it again
            code = guest.wait()
            assert code == 1 and "Traceback" not in guest.said(), f"guest {n} ended by itself with {code}:\n{guest.said()[-3000:]}"
            stage.operations.note(f"guest {n} could not begin: {guest.said()[-300:]}")
            continue
        time.sleep(stage.luck.uniform(0.2, 2.0))
        code = guest.told_to_end()
        assert code == 0, f"guest {n} ended with {code}:\n{guest.said()[-3000:]}"
    stage.advances("in a storm of rebalances")


def _broker(how: signal.Signals) -> Fault:
    def restarted(stage: Stage) -> None:
        stage.operations.note(f"{how.name} to Kafka")
        began = time.monotonic()
        stage.servers.end("kafka", how)
        stage.servers.start()
        stage.advances(f"after Kafka's {how.name}")
        stage.history_advances(f"after Kafka's {how.name}")
        stage.outages_s.append(time.monotonic() - began)
        stage.operations.note(f"Kafka was away and is worked with again, {stage.outages_s[-1]:.1f} s in all")

    restarted.__doc__ = f"Kafka gets {how.name} and is started again."
    restarted.__name__ = f"kafka_{how.name.lower()}"
    return restarted


def redis_killed(stage: Stage) -> None:
    """Redis dies and is started again."""
    stage.operations.note("kill -9 Redis")
    stage.servers.end("redis", signal.SIGKILL)
    stage.servers.start()
    stage.advances("after Redis died")


def last_second_lost(stage: Stage) -> None:
    """Redis dies, and what it appended in its last second is gone."""

    before: dict[Place, int] = {}

    def cut() -> int:
        file = stage.servers.log_of_redis()
        kept = file.stat().st_size
        time.sleep(stage.luck.uniform(0.5, 1.0))
        before.update(until(stage.offsets, "the offsets that Redis will lose"))
        stage.servers.end("redis", signal.SIGKILL)
        lost = file.stat().st_size - kept
        if lost > 0:                       # in the middle of a command, as likely as not
            os.truncate(file, kept + stage.luck.randrange(max(1, lost // 4)))
        stage.servers.start()
        return lost

    lost = until(cut, "something to lose")
    after = until(stage.offsets, "the offsets that Redis still has")
    back = sum(max(0, before[place] - after[place]) for place in before)
    stage.operations.note(f"kill -9 Redis, which lost its last {lost} bytes and stands {back} offsets behind an instant before")
    stage.advances("after Redis lost its last second")


def emptied(stage: Stage) -> None:
    """FLUSHALL: every worker stops loudly, and `featureflow rebuild` brings it all back."""
    stage.operations.note("FLUSHALL")
    with redis.Redis.from_url(stage.world.settings["FEATUREFLOW_ONLINE_URL"]) as client:
        client.flushall()
    until(lambda: all(member.ended() is not None for member in stage.workers), "the loud end of every worker")
    codes = [member.ended() for member in stage.workers]
    assert codes == [1, 1, 1], f"the workers ended with {codes}"
    said = [member.process.err() for member in stage.workers if member.process is not None]
    assert all("featureflow " in text for text in said), f"no command is named: {[text[-500:] for text in said]}"
    rebuilt = stage.world.featureflow("rebuild")["rebuilt"]
    assert len(rebuilt) == len(stage.world.project.views), f"only {rebuilt} were rebuilt"
    for member in stage.members:
        if member.ended() is not None:
            member.start_again()
    stage.advances("after the rebuild")
    stage.operations.note("rebuilt")


def mysql_restarted(stage: Stage) -> None:
    """MySQL goes and comes back; the online features go on meanwhile."""
    stage.operations.note("SIGTERM to MySQL")
    stage.servers.end("mysql", signal.SIGTERM)
    stage.advances("while MySQL is away")
    stage.servers.start()
    stage.history_advances("after MySQL came back")


def deadlock(stage: Stage) -> None:
    """The database chooses the history writer as the victim of a deadlock; tried until it does.

        rival:    INSERT the rows that come next, and many others
        writer:   UPDATE the offset (locked), INSERT ... waits for the rival
        rival:    UPDATE the offset ... deadlock: the writer changed less, and is rolled back
        rival:    ROLLBACK
    """
    parts = urlsplit(stage.world.settings["FEATUREFLOW_HISTORY_URL"])
    with closing(pymysql.connect(
        host=parts.hostname, port=parts.port or 0, user=parts.username, password=parts.password or "", database=parts.path.strip("/")
    )) as rival, rival.cursor() as cursor:
        cursor.execute("SET SESSION transaction_isolation = 'READ-COMMITTED'")
        cursor.execute("SET SESSION innodb_lock_wait_timeout = 30")
        cursor.execute("SET autocommit = 0")
        until(lambda: _rival(stage, rival, cursor), "a deadlock of which the history writer is the victim", seconds=120.0, every=0.02)
    stage.history_advances("after the deadlock")


def _rival(stage: Stage, rival: pymysql.Connection[pymysql.cursors.Cursor], cursor: pymysql.cursors.Cursor) -> bool:
    """Whether the writer was the victim, this time."""
    partition = stage.luck.randrange(3)
    cursor.execute("SELECT next_offset FROM history_offsets WHERE source = 'tip' AND partition_id = %s", (partition,))
    ((following,),) = cursor.fetchall()
    rows = [(partition, following + n) for n in range(200)] + [(partition + 1_000, n) for n in range(3_000)]
    place = f"a deadlock on history's offset of tip/{partition}"
    try:
        cursor.executemany("INSERT IGNORE INTO ev_tip (_partition, _offset, _timestamp_us, _append_time) VALUES (%s, %s, 0, 1)", rows)
        if not _waits(cursor):
            stage.operations.note(f"no writer came for {place}: once more")
            return False
        cursor.execute("UPDATE history_offsets SET next_offset = 77 WHERE source = 'tip' AND partition_id = %s", (partition,))
    except pymysql.err.OperationalError as victim:
        stage.operations.note(f"{place}, of which the rival was the victim: once more ({victim.args[0]})")
        return False
    finally:
        rival.rollback()
    stage.operations.note(f"{place}, of which the writer was the victim")
    return True


def _waits(cursor: pymysql.cursors.Cursor) -> bool:
    """Whether somebody comes who holds an offset and waits for our rows: then the one that gets the offset has won the deadlock."""
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        cursor.execute(
            "SELECT COUNT(*) FROM performance_schema.data_locks AS rows_ JOIN performance_schema.data_locks AS offsets "
            "USING (engine_transaction_id) WHERE rows_.object_schema = DATABASE() AND rows_.object_name = 'ev_tip' "
            "AND rows_.lock_status = 'WAITING' AND offsets.object_schema = DATABASE() AND offsets.object_name = 'history_offsets' "
            "AND offsets.lock_type = 'RECORD' AND offsets.lock_status = 'GRANTED'"
        )
        ((waiting,),) = cursor.fetchall()
        if waiting:
            return True
        time.sleep(0.01)
    return False


def _cut(of: Literal["redis", "mysql"], when: Literal["before", "after"]) -> Fault:
    def cut(stage: Stage) -> None:
        cutter = stage.to_redis if of == "redis" else stage.to_mysql
        before = cutter.cuts
        cutter.when = when
        until(lambda: cutter.cuts > before, f"a commit to {of}")
        stage.operations.note(f"a connection to {of} was cut {when} the answer to a commit")
        if of == "redis":
            stage.advances("after a commit without an answer")
        else:
            stage.history_advances("after a COMMIT without an answer")

    cut.__name__ = f"{of}_commit_cut_{when}"
    cut.__doc__ = f"A connection to {of} breaks {when} a commit arrives."
    return cut


OTHERS: tuple[Fault, ...] = (
    stays_dead, paused, rebalances, _broker(signal.SIGTERM), _broker(signal.SIGKILL), redis_killed, last_second_lost, emptied,
    mysql_restarted, deadlock, _cut("redis", "before"), _cut("redis", "after"), _cut("mysql", "before"), _cut("mysql", "after"),
)


def plan(kills: int, luck: random.Random, kills_a_round: int) -> list[Fault]:
    """So many kills, and in each round of them every other fault once, in an order of its own. ``stays_dead`` kills too.

    One kill in ANY_INSTANT is at any instant: as many by every seed, for the verdict asks how many were in the middle of a batch.
    """
    rounds = max(1, round(kills / kills_a_round))
    found: list[Fault] = []
    for n in range(rounds):
        single = kills * (n + 1) // rounds - kills * n // rounds - 1
        anywhere = single // ANY_INSTANT
        round_ = [*[killed] * (single - anywhere), *[killed_at_any_instant] * anywhere, *OTHERS]
        luck.shuffle(round_)
        found += round_
    return found
