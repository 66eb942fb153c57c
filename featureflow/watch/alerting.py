"""Scores to averages and alerts. What was scored is what counts: nothing here asks a model, a clock or the online store.

    1. place what was assigned, and restore its averages      3. fold the scores, in the order of their topic
    2. poll                                                   4. append averages and alerts and move the group, in one transaction
"""

from __future__ import annotations

import msgspec
import structlog

from featureflow import limits
from featureflow.clock import Clock
from featureflow.define import spec, system
from featureflow.errors import LogError
from featureflow.store.log.protocol import Log, Partition, Record
from featureflow.watch.average import Average, fold, key_of
from featureflow.watch.failpoint import Failpoint
from featureflow.watch.member import Member
from featureflow.watch.metrics import WatchMetrics
from featureflow.watch.restored import restored, too_many
from featureflow.watch.score import SCORE, Alert, Score

logger = structlog.get_logger("featureflow.watch")
_ENCODE = msgspec.json.Encoder().encode


class Alerting:
    """All rules of a project, whichever process scored."""

    name = "alert"

    def __init__(
        self, log: Log, project: spec.Project, wall: Clock, metrics: WatchMetrics, failpoint: Failpoint, *, group: str, member: str
    ) -> None:
        self._log, self._wall, self._metrics, self._failpoint = log, wall, metrics, failpoint
        self._scores, self._alerts = system.scores(project.name), system.alerts(project.name)
        self._averages_topic = system.averages_topic(project.name)
        self._rules: dict[tuple[str, str, str], list[spec.Alert]] = {}
        for alert in project.alerts:
            self._rules.setdefault((alert.model, alert.source, alert.entity), []).append(alert)
        self._averages: dict[int, dict[bytes, Average]] = {}   # by partition of the scores
        self._member = Member(log, group, {self._scores.name: self._scores.topic}, member)
        self.alerts = 0

    def open(self) -> None:
        self._member.open()

    def close(self) -> None:
        self._member.close()
        self._averages.clear()

    def start_over(self) -> None:
        self._member.start_over()
        self._averages.clear()

    def step(self, *, timeout_s: float) -> int:
        """How many alerts were appended. Raises UnavailableError, FencedError, LogError."""
        if placed := self._member.place():  # 1
            self._failpoint("alerting_placed")
            self._restore(placed)
            self._failpoint("averages_restored")
            self._member.start(placed)
        batches = self._member.poll(timeout_s=timeout_s)  # 2
        for partition in self._averages.keys() - {place.partition for place in self._member.at}:
            del self._averages[partition]
        self._metrics.partitions.labels(self.name).set(len(self._member.at))
        if not batches:
            return 0
        self._failpoint("alerting_polled")
        changed: dict[int, dict[bytes, Average]] = {}
        alerts: list[Alert] = []
        newest_us = 0
        for batch in batches:  # 3
            known, own = self._averages[batch.partition], changed.setdefault(batch.partition, {})
            for offset, value in zip(batch.offsets.tolist(), batch.values, strict=True):
                if (score := self._score(batch.partition, offset, value)) is not None:
                    alerts += self._fold(score, known, own)
            newest_us = max(newest_us, int(batch.timestamps_us.max(initial=0)))
        self._failpoint("folded")
        states = [
            Record(_ENCODE(average), key, partition) for partition, own in changed.items() for key, average in own.items()
        ]
        self._member.commit(  # 4
            {self._averages_topic: states, self._alerts.topic: [alert.record() for alert in alerts]}, batches
        )
        self._failpoint("alerts_committed")
        for partition, own in changed.items():
            self._averages[partition].update(own)
        self._said(alerts, newest_us)
        return len(alerts)

    def _score(self, partition: int, offset: int, value: bytes | None) -> Score | None:
        """None for what is no score: something else writes to the topic, and would stop every alert."""
        try:
            return None if value is None else SCORE.decode(value)
        except msgspec.MsgspecError as error:
            self._metrics.skipped.labels(self._scores.name, "no_score").inc()
            logger.error("no_score", topic=self._scores.topic, partition=partition, offset=offset, error=str(error))
            return None

    def _fold(self, score: Score, known: dict[bytes, Average], changed: dict[bytes, Average]) -> list[Alert]:
        """The alerts of one score; the averages that it goes into are ``changed``."""
        told = []
        for rule in self._rules.get((score.model, score.source, score.entity), ()):
            key = key_of(rule, score.id)
            found = fold(rule, changed.get(key) or known.get(key), score)
            if found is None:
                self._metrics.unchanged.labels(rule.name).inc()
                continue
            changed[key], alert = found
            if alert is not None:
                told.append(alert)
        return told

    def _restore(self, placed: tuple[Partition, ...]) -> None:
        has, wants = self._log.topic(self._averages_topic).partitions, self._log.topic(self._scores.topic).partitions
        if has != wants:
            raise LogError(
                f"topic {self._scores.topic} has {wants} partitions and {self._averages_topic} {has}: ids have moved between partitions, "
                "and the averages of those are elsewhere. Give both the number that they were created with"
            )
        self._averages |= restored(self._log, self._averages_topic, [place.partition for place in placed])
        if placed:
            logger.info("averages_restored", partitions=len(placed), averages=sum(map(len, self._averages.values())))

    def _said(self, alerts: list[Alert], newest_us: int) -> None:
        self.alerts += len(alerts)
        for alert in alerts:
            self._metrics.alerts.labels(alert.rule, alert.level).inc()
            logger.info("alert", rule=alert.rule, level=alert.level, id=alert.id, value=alert.value, alert_id=alert.alert_id)
        kept = sum(map(len, self._averages.values()))
        self._metrics.averages.set(kept)
        if newest_us:
            self._metrics.alert_seconds.observe((self._wall.now_us() - newest_us) * 1e-6)
        if kept > limits.AVERAGES:
            raise too_many(self._scores.topic)
