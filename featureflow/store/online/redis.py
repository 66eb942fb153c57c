"""The online store on Redis 7 or later, or Valkey. Scripts stand in ``lua/``; nothing here retries a write."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.retry import Retry

from featureflow.clock import NO_TIME_US
from featureflow.define.spec import DEFAULT_PROJECT
from featureflow.errors import BeingRebuiltError, OffsetMissingError, StateError, UnavailableError, UnknownOutcomeError
from featureflow.store.keys import Keys
from featureflow.store.online import call, loss, record
from featureflow.store.online.protocol import Claim, Commit, Committed, OffsetRecord, Refused

SETTING = "online.url"
SCRIPTS = ("claim", "commit", "create_offsets")
OLDEST = 7
# replies that say "not now" and come before a script's first write: nothing was applied
TRANSIENT = ("OOM", "READONLY", "MISCONF", "LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "NOREPLICAS", "TRYAGAIN")
TRANSIENT_TYPES = ("ReadOnlyError", "OutOfMemoryError", "TryAgainError")  # redis-py cuts the first word of these off


def scripts() -> dict[str, str]:
    """Name -> text of the Lua scripts as shipped."""
    folder = resources.files("featureflow.store.online") / "lua"
    return {name: (folder / f"{name}.lua").read_text("utf-8") for name in SCRIPTS}


class RedisOnlineStore:
    """The state of the project of that name. Safe to use from several threads: each call has a connection to itself.

    ``timeout_s`` bounds connecting and waiting for any reply. Every method raises UnavailableError (naming the setting)
    where the server does not answer, StateError where it answers with an error that waiting will not cure.
    """

    def __init__(
        self, url: str, *, project: str = DEFAULT_PROJECT, timeout_s: float = 2.0, lua: dict[str, str] | None = None
    ) -> None:
        self.place = place(url)
        self._keys = Keys(project)
        self._lua = dict(lua or scripts())
        self._sha: dict[str, str] = {}
        try:
            self._redis: Any = redis.Redis.from_url(
                url,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                **({} if url.startswith("unix:") else {"socket_keepalive": True}),
                retry=Retry(NoBackoff(), 0),  # a commit sent twice comes back as a refusal of itself
                retry_on_error=[],
                health_check_interval=0,
                client_name="featureflow",
            )
        except ValueError as problem:
            raise UnavailableError(f"{SETTING} is not a Redis URL: {problem}. Write redis://HOST:PORT/0") from None

    def create_offsets(self, view_id: str, source: str, topic_id: str, offsets: dict[int, int]) -> list[int]:
        if not offsets:
            return []
        partitions = list(offsets)
        made = self._run(
            "create_offsets",
            [self._keys.offset(view_id, source, partition) for partition in partitions],
            [record.encode(OffsetRecord(record.NO_TOKEN, offsets[p], -1, NO_TIME_US, 0, topic_id)) for p in partitions],
        )
        return [partitions[i - 1] for i in made]

    def drop_view(self, view_id: str, *, for_good: bool = True) -> int:
        offsets, seen, states = (
            kind.format(self._keys.bucket, view_id) for kind in ("offset:{}:{}:*", "seen:{}:{}:*", "feat:{}:*:{}:*")
        )
        with self._answering():
            for key in self._redis.scan_iter(match=offsets, count=1000):
                self._redis.set(key, record.dropped(), xx=True)
            return sum(self._delete(pattern) for pattern in ((seen, states, offsets) if for_good else (seen, states)))

    def _delete(self, pattern: str) -> int:
        gone, batch = 0, list[bytes]()
        for key in self._redis.scan_iter(match=pattern, count=1000):
            batch.append(key)
            if len(batch) == 1000:
                gone += self._redis.unlink(*batch)
                batch.clear()
        return gone + (self._redis.unlink(*batch) if batch else 0)

    def claim(self, source: str, partition: int, view_ids: Sequence[str], topic_id: str) -> Claim:
        token = secrets.token_bytes(16)
        offset_keys = [self._keys.offset(view_id, source, partition) for view_id in view_ids]
        reason, *rest = self._run("claim", offset_keys, [token.hex().encode(), topic_id.encode()])
        if reason == b"ok":
            return Claim(source, partition, token, dict(zip(view_ids, map(record.decode, rest), strict=True)))
        view_id = view_ids[rest[0] - 1]
        if reason == b"absent":
            raise OffsetMissingError(loss.absent(view_id, source, partition))
        if reason == b"format":
            raise OffsetMissingError(loss.unknown_format(view_id, source, partition, rest[1]))
        if reason == b"dropped":
            raise BeingRebuiltError(loss.dropped(view_id, source, partition))
        stored = record.decode(rest[1])
        if reason == b"dirty":
            raise OffsetMissingError(loss.dirty(view_id, source, partition, stored))
        raise OffsetMissingError(loss.other_topic(view_id, source, partition, stored, topic_id))

    def commit(self, commit: Commit) -> Committed | Refused:
        keys, arguments = call.arguments(commit, self._keys)
        reason, *rest = self._run("commit", keys, arguments, write=f"a commit of {commit.source}/{commit.partition}")
        if reason == b"ok":
            return Committed(rest[0])
        return Refused(reason.decode(), rest[0].decode(errors="replace"), tuple(rest[1:]))

    def now_ms(self) -> int:
        with self._answering():
            seconds, microseconds = self._redis.time()
            return int(seconds) * 1000 + int(microseconds) // 1000

    def offsets(self, source: str, partition: int, view_ids: Sequence[str]) -> dict[str, OffsetRecord | None]:
        values = self.read([self._keys.offset(view_id, source, partition) for view_id in view_ids])
        pairs = zip(view_ids, values, strict=True)
        return {view_id: None if value is None else loss.decoded(view_id, source, partition, value) for view_id, value in pairs}

    def visible(self, view_id: str, source: str, partition: int) -> list[tuple[int, int]]:
        with self._answering():
            entries = self._redis.xrange(self._keys.visibility(view_id, source, partition))
        return [(int(entry.partition(b"-")[0]), int(fields[b"to"])) for entry, fields in entries]

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if not keys:
            return []
        with self._answering():
            values: list[bytes | None] = self._redis.mget(keys)
            return values

    def put_meta(self, name: str, value: bytes) -> None:
        with self._answering():
            self._redis.set(self._keys.meta(name), value)

    def get_meta(self, name: str) -> bytes | None:
        with self._answering():
            value: bytes | None = self._redis.get(self._keys.meta(name))
            return value

    def check(self) -> list[str]:
        with self._answering():
            info = self._redis.info("everything")
        return problems(info)

    def ping(self) -> str:
        with self._answering():
            return version(self._redis.info("server"))

    def close(self) -> None:
        self._redis.close()

    def _run(self, name: str, keys: Sequence[bytes], arguments: Sequence[bytes], *, write: str = "") -> list[Any]:
        with self._answering(write):
            if name not in self._sha:
                self._sha[name] = self._redis.script_load(self._lua[name])
            message = call.evalsha(self._sha[name], keys, arguments)
            try:
                return self._ask(message)
            except NoScriptError:  # the server restarted; it says so before it runs anything
                self._redis.script_load(self._lua[name])  # under the same name: that is a hash of its text
                return self._ask(message)

    def _ask(self, message: bytes) -> list[Any]:
        """The reply to one packed call. redis-py would look at each argument of it."""
        pool = self._redis.connection_pool
        connection = pool.get_connection()
        try:
            connection.send_packed_command([message])
            answer: list[Any] = connection.read_response()
            return answer
        finally:
            pool.release(connection)

    @contextmanager
    def _answering(self, write: str = "") -> Iterator[None]:
        try:
            yield
        except (redis.ConnectionError, redis.TimeoutError) as problem:
            if write:
                raise UnknownOutcomeError(
                    f"{write} was sent to Redis at {self.place} and its reply was lost ({problem}); see {SETTING}"
                ) from problem
            raise UnavailableError(f"Redis at {self.place} does not answer ({problem}); see {SETTING}") from problem
        except ResponseError as problem:
            if str(problem).startswith(TRANSIENT) or type(problem).__name__ in TRANSIENT_TYPES:
                raise UnavailableError(f"Redis at {self.place} ({SETTING}) takes no writes now: {problem}") from problem
            raise StateError(f"Redis at {self.place} ({SETTING}) refused: {problem}") from problem
        except RedisError as problem:
            raise UnavailableError(f"Redis at {self.place} ({SETTING}): {problem}") from problem


def place(url: str) -> str:
    """Where a URL points, without its password."""
    parts = urlsplit(url)
    return parts.path if parts.scheme == "unix" else f"{parts.hostname or 'localhost'}:{parts.port or 6379}"


def version(info: Mapping[str, Any]) -> str:
    """The server's name and version, from INFO."""
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}"


def problems(info: dict[str, Any]) -> list[str]:
    """What INFO shows to be wrong for a store of state, each with its fix; see ``OnlineStore.check``."""
    found = []
    oldest = str(info["redis_version"])  # Valkey reports the Redis version that it is compatible with
    if int(oldest.partition(".")[0]) < OLDEST:
        found.append(f"Redis {oldest} is too old: install Redis {OLDEST} or later, or Valkey")
    if info["maxmemory_policy"] != "noeviction":
        found.append(
            f"maxmemory-policy is {info['maxmemory_policy']}, which deletes state and keeps its offsets: "
            f"set `maxmemory-policy noeviction` in redis.conf, or CONFIG SET it"
        )
    if info.get("role", "master") != "master":
        found.append("this server is a replica: point online.url at its primary")
    if not int(info["aof_enabled"]):
        found.append(
            "warning: appendonly is off, so a restart falls back to the last snapshot and folds again from there: set "
            "`appendonly yes` and `appendfsync everysec`"
        )
    return found
