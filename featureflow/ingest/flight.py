"""A batch on its way into the store.

    fold      (2) its entities  (3) rows, as if what is on its way before it were committed
    send      (2) its dead letters  (4) its commits, all of them, of which none is answered yet
    land      (4) the answers; where keys had expired: read, folded and sent again

While the commits of one are on their way, the next is decoded and folded. It is sent once they are answered, all of them applied;
else it is forgotten: what it was folded into is not in the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from featureflow.clock import Clock
from featureflow.define.spec import Project
from featureflow.ingest import dead_letter
from featureflow.ingest.commit import Sending
from featureflow.ingest.failpoint import Failpoint
from featureflow.ingest.judged import Judged
from featureflow.ingest.owned import Owned, Stand
from featureflow.ingest.share import Share
from featureflow.ingest.source_views import SourceViews
from featureflow.ingest.tally import Tally
from featureflow.store.log.protocol import Log
from featureflow.store.online.protocol import Commit, Committed, OnlineStore, Refused

EXPIRIES = 3                               # of keys whose life ends between their reading and their commit, in one batch


@dataclass(frozen=True)
class Servers:
    """What a flight needs of its worker."""

    log: Log
    online: OnlineStore
    project: Project
    clock: Clock
    tally: Tally
    failpoint: Failpoint


def acknowledge(
    servers: Servers, source: SourceViews, owned: Owned, commit: Commit, rows: int, sent_us: int, outcome: Committed | Refused
) -> None:
    """Take note of the answer to a commit that changes so many rows, and was sent then."""
    now_us = servers.clock.now_us()
    servers.tally.sent(outcome, rows, now_us - sent_us)
    if isinstance(outcome, Committed):
        owned.moved(commit, now_us)
        source.moved(commit)


@dataclass(frozen=True)
class Wave:
    """Commits that were sent together, one of each share that has more, and how many rows each changes."""

    shares: tuple[Share, ...]
    commits: tuple[Commit, ...]
    rows: tuple[int, ...]
    sent_us: int


@dataclass
class Flight:
    """Of a partition that is held. ``judged`` begins where its tracks stand, or will once what is before it has landed."""

    servers: Servers
    source: SourceViews
    owned: Owned
    judged: Judged
    _told: bool = False                    # what of it is duplicates
    _shares: Sequence[Share] = ()
    _waves: list[Wave] = field(default_factory=list)

    @property
    def onward(self) -> Stand:
        """Where its tracks stand once all of it is committed."""
        offset, max_time_us = self.judged.reach(len(self.judged.events))
        return replace(self.judged.stand, offset=offset, max_time_us=max_time_us)

    def fold(self) -> None:
        """Raises UnavailableError."""
        servers, source, judged = self.servers, self.source, self.judged
        with servers.tally.timed("load"):                                                    # (2)
            source.load(servers.online, judged)
            if not self._told:
                source.tell_duplicates(servers.online, self.owned, judged)
                self._told = True
        self._fold(source.shares(judged))

    def send(self) -> None:
        """Nothing of the partition is on its way. Raises UnavailableError."""
        servers, judged = self.servers, self.judged
        with servers.tally.timed("decode"):
            dead_letter.append(servers.log, servers.project.name, judged.dead, servers.clock, servers.failpoint)    # (2)
        self._send()

    def forget(self) -> None:
        """It was folded, and is not sent."""
        self.source.committed(self.judged, self._shares)
        self._shares = ()

    def land(self, behind: Flight | None = None) -> Refused | None:
        """``behind``: what was folded meanwhile, if it is of the same partition. Raises UnavailableError."""
        servers, source, judged = self.servers, self.source, self.judged
        for left in reversed(range(EXPIRIES)):
            refused = self._settle(behind)
            if not refused:
                servers.tally.done(judged)
                return None
            if lasting := [share.refused for share in refused if share.refused and share.refused.reason != "expired"]:
                return lasting[0]
            if not left:
                break
            letters = len(judged.dead)
            with servers.tally.timed("load"):                                                # its entities are read again
                source.load(servers.online, judged)
            if len(judged.dead) > letters:                         # another's by now: the batch is judged anew, and says so first
                break
            self._fold(refused)
            self._send()
        return refused[0].refused

    @property
    def folded(self) -> bool:
        """Whether what was folded is neither forgotten nor settled."""
        return bool(self._shares)

    def _fold(self, shares: Sequence[Share]) -> None:
        """What the shares have yet to commit."""
        with self.servers.tally.timed("fold"):                                               # (3)
            self.source.fold(self.judged, shares)
            self._shares = tuple(shares)
            self.servers.failpoint("after_fold")

    def _send(self) -> None:
        """The parts of each share in order, those of different buckets side by side."""
        servers, source, owned, judged = self.servers, self.source, self.owned, self.judged
        with servers.tally.timed("commit"):                                                  # (4)
            source.begin(owned.partition.partition)
            self._sending = Sending(servers.online, servers.failpoint)
            self._waves.clear()
            while waiting := tuple(share for share in self._shares if share.part is not None):
                rows = tuple(share.part.rows for share in waiting if share.part is not None)
                commits = tuple(source.commit(owned, judged, share) for share in waiting)
                self._waves.append(Wave(waiting, commits, rows, servers.clock.now_us()))
                self._sending.send(commits)

    def _settle(self, behind: Flight | None) -> list[Share]:
        """Take the answers. The shares of which one was refused: then what was folded behind this is forgotten."""
        servers, source, shares, judged = self.servers, self.source, self._shares, self.judged
        with servers.tally.timed("wait"):
            outcomes = self._sending.outcomes()
            for wave in self._waves:
                past = min(share.start for share in shares)
                for share, commit, rows in zip(wave.shares, wave.commits, wave.rows, strict=True):
                    outcome = next(outcomes)
                    acknowledge(servers, source, self.owned, commit, rows, wave.sent_us, outcome)
                    share.settle(outcome)
                if (now_past := min(share.start for share in shares)) > past:
                    newest_ms = max(share.times_ms[-1] for share in shares if share.times_ms) or servers.clock.now_us() // 1000
                    servers.tally.committed(judged, past, now_past, newest_ms, fresh=judged.stand.until is None)
        refused = [share for share in shares if share.refused is not None]
        if refused and behind is not None:
            behind.forget()
        source.committed(judged, shares)
        self._shares = ()
        return refused
