"""The sessions that a process holds: each made once however many ask for it, used by all of them, and dropped when nobody does.

A session is found by its key. Where it is absent, the first caller makes it and the others wait for that one:

    1. look       the key is held: that session, and it counts as just used
    2. wait       somebody makes it: what they get, also where that is an error
    3. make       outside the lock, so that sessions of other keys are found and made meanwhile
    4. make room  the least recently used go until count and bytes are within their bounds; the new one stays

``sweep`` drops what nobody has used for ``idle_s``. A dropped session says so (``dropped``) and works on for those that still run it:
its memory is free when the last of them lets go of it. Asking a session costs no clock and no lock: a run sets ``asked``, and the pool
reads that when it next looks.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock
from time import monotonic
from typing import Literal

from featureflow.errors import ModelError
from featureflow.models.manifest import Provider, Variant
from featureflow.models.session import Session

SESSIONS = 8
SESSION_BYTES = 4 * 1024**3
IDLE_S = 600.0

Outcome = Literal["hit", "load", "failed", "idle", "count", "bytes"]


@dataclass(frozen=True, slots=True)
class SessionKey:
    """One session: two that differ in any of these are two."""

    model: str
    version: str
    provider: Provider
    manifest: str                          # SHA-256 of its file: quantized again, a version has other variants, and another probe
    variant: Variant
    shapes: str                            # SHA-256 of the names, types and shapes that it takes
    bucket: int                            # the largest batch that it is warmed for


class SessionPool:
    """Safe for several threads, as its sessions are: whoever shares one by its key waits for who runs it."""

    def __init__(
        self, *, sessions: int = SESSIONS, session_bytes: int = SESSION_BYTES, idle_s: float = IDLE_S,
        now_s: Callable[[], float] = monotonic,
    ) -> None:
        """sessions, session_bytes: held at most. idle_s: how long one is held that nobody uses. now_s: a clock that never goes back."""
        self._most, self._most_bytes, self._idle_s, self._now_s = sessions, session_bytes, idle_s, now_s
        self._held: OrderedDict[SessionKey, tuple[Session, float]] = OrderedDict()   # least recently used first, each with when that was
        self._making: dict[SessionKey, Future[Session]] = {}
        self._lock = Lock()
        self.outcomes: Counter[Outcome] = Counter()

    def get(self, key: SessionKey, make: Callable[[], Session]) -> Session:
        """The key's session, made by ``make`` where it is not held. Blocks while it is made: not for an event loop.

        Raises what ``make`` raises, to all that wait, and holds nothing then; ModelError for a session beyond ``session_bytes`` by itself.
        """
        with self._lock:
            found = self._held.get(key)
            if found is not None:                      # 1
                self._held[key] = (found[0], self._now_s())
                self._held.move_to_end(key)
                self.outcomes["hit"] += 1
                return found[0]
            making = self._making.get(key)
            mine = making is None
            if making is None:
                making = self._making[key] = Future()
        if not mine:                                   # 2
            session = making.result()
            self.outcomes["hit"] += 1
            return session
        try:
            session = make()                           # 3
            if session.bytes > self._most_bytes:
                raise ModelError(
                    f"model {key.model}@{key.version} takes {session.bytes:,} bytes, all sessions together may take {self._most_bytes:,}; "
                    "raise models.session_bytes, or quantize it"
                )
        except BaseException as error:
            with self._lock:
                del self._making[key]
                self.outcomes["failed"] += 1
            making.set_exception(error)
            raise
        with self._lock:
            self._held[key] = (session, self._now_s())
            del self._making[key]
            self.outcomes["load"] += 1
            self._make_room()                          # 4
        making.set_result(session)
        return session

    def sweep(self, kept: Collection[Session] = ()) -> tuple[SessionKey, ...]:
        """Drop the sessions that nobody has used for ``idle_s``, and say which. Call it every few seconds: it is what sees uses.

        kept: those that stay however idle, while there is room: what answers where no version is named.
        """
        with self._lock:
            self._see_uses()
            until = self._now_s() - self._idle_s
            staying = {id(session) for session in kept}
            idle = [key for key, (session, used_s) in self._held.items() if used_s <= until and id(session) not in staying]
            for key in idle:
                self._drop(key, "idle")
            return tuple(idle)

    @property
    def keys(self) -> tuple[SessionKey, ...]:
        """Those held, the least recently used first."""
        with self._lock:
            self._see_uses()
            return tuple(self._held)

    @property
    def held_bytes(self) -> int:
        """Of all sessions held."""
        with self._lock:
            return sum(session.bytes for session, _ in self._held.values())

    def _see_uses(self) -> None:
        now_s = self._now_s()
        for key in [key for key, (session, _) in self._held.items() if session.asked]:
            session = self._held[key][0]
            session.asked = False
            self._held[key] = (session, now_s)
            self._held.move_to_end(key)

    def _make_room(self) -> None:
        newest = next(reversed(self._held))
        if len(self._held) > self._most or sum(session.bytes for session, _ in self._held.values()) > self._most_bytes:
            self._see_uses()
            self._held.move_to_end(newest)             # nobody can have used it yet
        while len(self._held) > self._most:
            self._drop(next(iter(self._held)), "count")
        while sum(session.bytes for session, _ in self._held.values()) > self._most_bytes:
            self._drop(next(iter(self._held)), "bytes")

    def _drop(self, key: SessionKey, why: Outcome) -> None:
        self._held.pop(key)[0].dropped = True
        self.outcomes[why] += 1
