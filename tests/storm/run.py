"""One storm: servers, consumers and a producer; faults from a seed; then everything is drained and compared with a naive replay."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import sqlalchemy
import verdict
from processes import until
from producer import RIDERS, Producer
from proxy import Cutter
from world import SECOND_US, World, production

from featureflow.errors import UnavailableError
from storm import faults
from storm.definitions import DEFINITIONS
from storm.faults import Stage
from storm.members import Killed, Launch, Member, cold
from storm.operations import Operations
from storm.servers import OwnServers

WORKERS = 3
BUCKETS = 4
AGAIN = 0.1                                # of the records: the same bytes again, a while later
KILLS_A_ROUND = 40
MID_BATCH = 0.9                            # of the kills, at least
NONEMPTY = 0.9                             # of the entities, at least
DRAIN_S = 300.0


@dataclass
class Report:
    """What the last line says, and whether it is good."""

    seed: int
    found: verdict.Verdict = field(default_factory=verdict.Verdict)
    kills: list[Killed] = field(default_factory=list)
    pauses: int = 0
    commits_refused: int = 0
    restarts: int = 0
    events: int = 0
    resent: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    takeovers_s: list[float] = field(default_factory=list)
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not self.problems

    @property
    def mid_batch(self) -> int:
        return sum(kill.in_hand > 0 for kill in self.kills)

    def judge(self) -> None:
        """Write down what is not as it must be."""
        found = self.found
        for what in ("lost", "doubled", "wrong"):
            if count := getattr(found, what):
                self.problems.append(f"{count} {what}")
        wanted = {
            "kills with events in hand": self.mid_batch >= MID_BATCH * len(self.kills) > 0,
            "commits refused, one a pause": self.commits_refused >= self.pauses > 0,
            "entities that an event counts in": found.nonempty >= NONEMPTY * found.entities > 0,
            "duplicates, which no view counts": found.duplicates > 0,
            "published values": found.published > 0,
            "dead letters": found.letters == found.letters_expected > 0,
        }
        self.problems += [f"too few: {what}" for what, enough in wanted.items() if not enough]

    def document(self) -> dict[str, object]:
        recoveries = [kill.recovery_s for kill in self.kills if kill.recovery_s]
        return {
            "kills": len(self.kills),
            "kills_mid_batch": self.mid_batch,
            "pauses": self.pauses,
            "commits_refused": self.commits_refused,
            "restarts": self.restarts,
            "events": self.events,
            "entities_checked": self.found.entities,
            "entities_nonempty_share": round(self.found.nonempty / max(1, self.found.entities), 4),
            "lost": self.found.lost,
            "doubled": self.found.doubled,
            "wrong": self.found.wrong,
            "dead_letters_expected": self.found.letters_expected,
            "dead_letters": self.found.letters,
            "worst_recovery_s": round(max(recoveries, default=0.0), 2),
            "seed": self.seed,
            "median_recovery_s": round(sorted(recoveries)[len(recoveries) // 2], 2) if recoveries else 0.0,
            "worst_takeover_s": round(max(self.takeovers_s, default=0.0), 2),
            "events_sent_again": self.resent,
            "history_rows": self.found.rows,
            "duplicates": self.found.duplicates,
            "published": self.found.published,
            "buckets": BUCKETS,
            "faults": dict(sorted(self.faults.items())),
            "seconds": round(self.seconds, 1),
            "problems": self.problems,
        }


def run(folder: Path, *, kills: int, seed: int, launch: Launch = cold, without: str = "") -> Report:
    """``kills`` SIGKILLs of consumers, and every other fault once in KILLS_A_ROUND of them. Servers and processes end with it.

    ``without``: a guard of ``watched.GUARDS`` that the workers lack.
    """
    operations, report, began = Operations(folder), Report(seed), time.monotonic()
    operations.note(f"seed {seed}, {kills} kills")
    luck = random.Random(seed)
    with ExitStack() as exits:
        servers = exits.enter_context(OwnServers(folder / "services"))
        operations.note("Kafka, Redis and MySQL are up")
        stage, world = _staged(exits, folder, servers, operations, luck, launch, without)
        riders = (*RIDERS, *(f"r{n}" for n in range(30, 300)))
        producer = Producer(world, random.Random(luck.random()), pause_s=0.2, riders=riders, again=AGAIN)
        stop = threading.Event()
        producing = threading.Thread(target=producer.run, args=(stop,), name="producer")
        producing.start()
        exits.callback(producing.join)
        exits.callback(stop.set)
        try:
            _conduct(stage, faults.plan(kills, luck, KILLS_A_ROUND), report)
            stop.set()
            producing.join()
            _drain(stage)
        except (AssertionError, UnavailableError) as problem:
            report.problems.append(str(problem))
        stop.set()
        producing.join()
        report.problems += [f"the producer: {problem}" for problem in producer.problem]
        _take_stock(stage, producer, report)
        report.seconds = time.monotonic() - began
    return report


def _staged(
    exits: ExitStack, folder: Path, servers: OwnServers, operations: Operations, luck: random.Random, launch: Launch, without: str
) -> tuple[Stage, World]:
    services = servers.services
    engine = sqlalchemy.create_engine(services.mysql, isolation_level="AUTOCOMMIT")
    with engine.connect() as link:
        link.execute(sqlalchemy.text("CREATE DATABASE storm"))
    engine.dispose()
    world = exits.enter_context(production(
        folder / "project", services, f"{services.redis}/0", f"{services.mysql}/storm",
        definitions=DEFINITIONS, FEATUREFLOW_ONLINE_BUCKETS=str(BUCKETS),
    ))
    world.featureflow("apply")
    to_redis = exits.enter_context(closing(Cutter(("127.0.0.1", servers.port("redis")), b"EVALSHA")))
    to_mysql = exits.enter_context(closing(Cutter(("127.0.0.1", servers.port("mysql")), b"\x03COMMIT")))
    mysql = urlsplit(f"{services.mysql}/storm")
    through = {
        "ingest": {"FEATUREFLOW_ONLINE_URL": f"redis://127.0.0.1:{to_redis.port}/0", "FEATUREFLOW_TEST_WITHOUT": without},
        "history": {
            "FEATUREFLOW_HISTORY_URL": mysql._replace(          # the proxy reads along
                netloc=f"{mysql.username}:{mysql.password}@127.0.0.1:{to_mysql.port}", query="ssl_disabled=true"
            ).geturl()
        },
    }
    workers = [Member(launch, world, operations, "ingest", f"worker-{n}", through["ingest"]) for n in range(WORKERS)]
    writer = Member(launch, world, operations, "history", "writer", through["history"])
    for member in (*workers, writer):
        member.start()
        exits.callback(member.close)
    return Stage(world, servers, operations, luck, workers, writer, to_redis, to_mysql), world


def _conduct(stage: Stage, plan: list[faults.Fault], report: Report) -> None:
    stage.advances("at the beginning")
    stage.history_advances("at the beginning")
    stage.operations.note(f"{len(stage.members)} consumers at work; {len(plan)} faults follow")
    for fault in plan:
        try:
            fault(stage)
        except (AssertionError, UnavailableError) as problem:
            raise AssertionError(f"{fault.__name__}: {problem}") from problem
        report.faults[fault.__name__] += 1


def _drain(stage: Stage) -> None:
    for member in stage.members:
        if member.ended() is not None:
            member.start()
    until(stage.world.folded, "the end of the log in the online store", seconds=DRAIN_S, every=0.1)
    sources = ("ride", "tip", "featureflow_dead_letters")
    until(lambda: stage.world.recorded(sources), "the end of the log in history", seconds=DRAIN_S, every=0.1)
    stage.operations.note("drained")
    for member in stage.members:
        assert member.process is not None
        code = member.process.told_to_end()
        assert code == 0, f"{member.name} ended with {code}:\n{member.process.said()[-3000:]}"


def _take_stock(stage: Stage, producer: Producer, report: Report) -> None:
    for member in stage.members:
        report.kills += member.kills
        report.pauses += member.pauses
        report.commits_refused += member.refused
        report.restarts += member.restarts
    report.takeovers_s, report.resent = stage.takeovers_s, producer.resent
    if report.problems:                    # what was not drained cannot be compared
        return
    log = verdict.replay(stage.world, producer.bad)
    if missing := log.lacks(producer.sent):
        report.problems.append(f"the log lacks {len(missing)} records that it acknowledged, the first of them {missing[:3]}")
    report.events = len(log.events) + len(log.refused)
    newest = max(record.time_us for record in log.events)
    stage.operations.note(f"{report.events} records in the log; comparing")
    report.found = verdict.of_everything(stage.world, log, [newest + SECOND_US])
    for said in report.found.said:
        stage.operations.note(f"DIFFERS: {said}")
        for line in stage.operations.around(said):
            stage.operations.note(f"    {line}")
    report.judge()
