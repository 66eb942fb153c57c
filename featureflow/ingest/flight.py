"""A batch whose commits are on their way: folded and sent, not answered yet. Meanwhile the next one is read and decoded.

    take off                    (2) entities, dead letters  (3) fold  (4) send
    land                        (4) answers; what had expired is read, folded and sent again

One at a time: rows whose commits are not answered are folded no further. Whatever was judged meanwhile counts on all of it being
committed, and is void if it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from featureflow.clock import Clock
from featureflow.define.spec import Project
from featureflow.ingest import dead_letter
from featureflow.ingest.claim import Owned, Stand
from featureflow.ingest.commit import Sending
from featureflow.ingest.failpoint import Failpoint
from featureflow.ingest.source_views import Judged, Share, SourceViews
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


@dataclass(frozen=True)
class Wave:
    """Commits that were sent together, one of each share that has more, and how many rows each changes."""

    shares: tuple[Share, ...]
    commits: tuple[Commit, ...]
    rows: tuple[int, ...]
    sent_us: int


@dataclass
class Flight:
    """Of a partition that is held. ``judged`` begins where its tracks stand."""

    servers: Servers
    source: SourceViews
    owned: Owned
    judged: Judged
    _waves: list[Wave] = field(default_factory=list)

    @property
    def onward(self) -> Stand:
        """Where its tracks stand once all of it is committed."""
        offset, max_time_us = self.judged.reach(len(self.judged.events))
        return replace(self.judged.stand, offset=offset, max_time_us=max_time_us)

    def take_off(self) -> None:
        """Raises UnavailableError."""
        servers, source, judged = self.servers, self.source, self.judged
        with servers.tally.timed("load"):                                                    # (2)
            source.load(servers.online, judged)
            source.tell_duplicates(servers.online, self.owned, judged)
        with servers.tally.timed("decode"):
            dead_letter.append(servers.log, servers.project.name, judged.dead, servers.clock, servers.failpoint)
        self._send(source.shares(judged))

    def land(self) -> Refused | None:
        """Raises UnavailableError."""
        servers, source, judged = self.servers, self.source, self.judged
        for left in reversed(range(EXPIRIES)):
            refused = self._settle()
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
            self._send(refused)
        return refused[0].refused

    def _send(self, shares: Sequence[Share]) -> None:
        """Fold what the shares have yet to commit, and send their parts in order, those of different buckets side by side."""
        servers, source, owned, judged = self.servers, self.source, self.owned, self.judged
        with servers.tally.timed("fold"):                                                    # (3)
            source.fold(judged, shares)
            servers.failpoint("after_fold")
        with servers.tally.timed("commit"):                                                  # (4)
            self._sending, self._shares = Sending(servers.online, servers.failpoint), tuple(shares)
            self._waves.clear()
            while waiting := tuple(share for share in shares if share.part is not None):
                rows = tuple(share.part.rows for share in waiting if share.part is not None)
                commits = tuple(source.commit(owned, judged, share) for share in waiting)
                self._waves.append(Wave(waiting, commits, rows, servers.clock.now_us()))
                self._sending.send(commits)

    def _settle(self) -> list[Share]:
        """Take the answers. The shares of which one was refused."""
        servers, source, shares, judged = self.servers, self.source, self._shares, self.judged
        with servers.tally.timed("wait"):
            outcomes = self._sending.outcomes()
            for wave in self._waves:
                past = min(share.start for share in shares)
                for share, commit, rows in zip(wave.shares, wave.commits, wave.rows, strict=True):
                    outcome = next(outcomes)
                    now_us = servers.clock.now_us()
                    servers.tally.sent(outcome, rows, now_us - wave.sent_us)
                    share.settle(outcome)
                    if isinstance(outcome, Committed):
                        self.owned.moved(commit, now_us)
                        source.moved(commit)
                if (now_past := min(share.start for share in shares)) > past:
                    newest_ms = max(share.times_ms[-1] for share in shares if share.times_ms) or servers.clock.now_us() // 1000
                    servers.tally.committed(judged, past, now_past, newest_ms, fresh=judged.stand.until is None)
        source.committed(shares)
        return [share for share in shares if share.refused is not None]
