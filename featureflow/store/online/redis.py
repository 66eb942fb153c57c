"""The online store on Redis 7 or later, or Valkey. Scripts stand in ``lua/``; nothing here retries a write."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib import resources
from itertools import islice
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, NoScriptError, RedisError, ResponseError
from redis.retry import Retry

from featureflow.clock import NO_TIME_US
from featureflow.define.spec import DEFAULT_PROJECT
from featureflow.errors import BeingRebuiltError, OffsetMissingError, StateError, UnavailableError, UnknownOutcomeError
from featureflow.store.keys import ONE, Bucket, Keys, buckets, tag_of
from featureflow.store.online import call, loss, published, record, tls
from featureflow.store.online.login import refusal
from featureflow.store.online.not_now import is_not_now
from featureflow.store.online.protocol import Answer, Claim, Commit, Committed, OffsetRecord, Refused, Track
from featureflow.store.online.wire import Reply, Request, Talk, Unsent, Wire

SETTING = "online.url"
BUCKETS = 32                               # of a project that is new to a server
SCRIPTS = ("claim", "commit", "create_offsets", "drop", "withdraw", "share")
DROP_PASSES = 5                            # over a view that is dropped; the last finds nothing
OLDEST = 7
Call = tuple[Sequence[bytes], Sequence[bytes]]
"""KEYS and ARGV of a script."""


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
        self.place = self._place(url)
        self._url, self._timeout_s = url, timeout_s
        self._keys = Keys(project)
        self._lua = dict(lua or scripts())
        self._sha = {name: hashlib.sha1(text.encode()).hexdigest() for name, text in self._lua.items()}    # as the server names them

    @staticmethod
    def _place(url: str) -> str:
        """Where it points, without its password. Raises UnavailableError for what is no URL of such a store."""
        try:
            options = tls.options(url)
            if url.startswith("rediss:"):
                tls.context(options)           # redis-py itself would say of a file that is not there neither its name nor the option's
        except ValueError as problem:
            raise UnavailableError(f"{SETTING} is not a Redis URL: {problem}. Write redis://HOST:PORT/0, or embedded") from None
        return place(url)

    @cached_property
    def _redis(self) -> Any:
        """redis-py's client."""
        return redis.Redis.from_url(
            self._url,
            socket_timeout=self._timeout_s,
            socket_connect_timeout=self._timeout_s,
            **({} if self._url.startswith("unix:") else {"socket_keepalive": True}),
            retry=Retry(NoBackoff(), 0),  # a commit sent twice comes back as a refusal of itself
            retry_on_error=[],
            health_check_interval=0,
            client_name="featureflow",
        )

    @property
    def one_server(self) -> bool:
        return True

    def create_offsets(self, view_id: str, source: str, topic_id: str, offsets: dict[int, int], of: int = 1) -> list[int]:
        if not offsets:
            return []
        partitions, made = list(offsets), set(range(1, len(offsets) + 1))
        values = [record.encode(OffsetRecord(record.NO_TOKEN, offsets[p], -1, NO_TIME_US, 0, topic_id)) for p in partitions]
        calls = [([self._keys.offset(view_id, source, partition, bucket) for partition in partitions], values) for bucket in buckets(of)]
        for places in self._run_each("create_offsets", calls):
            made.intersection_update(places)
        return [partitions[i - 1] for i in sorted(made)]

    def drop_view(self, view_id: str, *, for_good: bool = True, places: Collection[tuple[str, int]] = (), of: int = 1) -> int:
        offsets, *kinds = self._keys.patterns(view_id)
        known = {self._keys.offset(view_id, source, partition, bucket) for source, partition in places for bucket in buckets(of)}
        total = 0
        for _ in range(DROP_PASSES):
            before = self._whereabouts(known)
            records = _by_tag(known.union(self._scan(offsets)))
            left = marked = sum(number for number, _ in self._dropped(records, records))
            for pattern in (*kinds, offsets) if for_good else kinds:
                left += self._delete(pattern, records)
            total += left - marked
            if not for_good:                   # not counted as left: another version of the view may be publishing still
                total += self._delete(self._keys.published_pattern(view_id.partition("@")[0]), records)
            if not left and before == self._whereabouts(known):
                return total
        raise UnavailableError(loss.not_dropped(view_id, self.place, for_good))

    def withdraw(self, live: Collection[str]) -> int:
        staying, gone = list(map(published.begins, live)), 0
        keys = self._scan(self._keys.published_pattern())
        while some := list(islice(keys, 1000)):
            gone += sum(number for (number,) in self._run_each("withdraw", [(of_tag, staying) for of_tag in _by_tag(some).values()]))
        return gone

    def _scan(self, pattern: str) -> Iterator[bytes]:
        with self._answering():
            yield from self._redis.scan_iter(match=pattern, count=1000)

    def _delete(self, pattern: str, records: Mapping[bytes, Sequence[bytes]]) -> int:
        """How many keys went. ``records``: tag -> the offset records that are marked where any of that tag go."""
        gone, keys = 0, self._scan(pattern)
        while some := list(islice(keys, 1000)):
            going = _by_tag(some)
            gone += sum(number for _, number in self._dropped(records, going, going))
        return gone

    def _dropped(
        self, records: Mapping[bytes, Sequence[bytes]], tags: Iterable[bytes], going: Mapping[bytes, Sequence[bytes]] = MappingProxyType({})
    ) -> list[list[int]]:
        """Of each tag, how many records were not marked yet, and how many keys went."""
        calls = [
            ([*records.get(tag, ()), *going.get(tag, ())], (b"%d" % len(records.get(tag, ())), record.dropped())) for tag in tags
        ]
        return self._run_each("drop", calls)

    def _whereabouts(self, keys: Collection[bytes]) -> object:
        """Compares equal to what it was before only if no key can have moved past a scan in between."""
        return None

    def claim(self, source: str, partition: int, view_ids: Sequence[str], topic_id: str, of: int = 1) -> Claim:
        token, records = secrets.token_bytes(16), dict[Track, OffsetRecord]()
        arguments, every = [token.hex().encode(), topic_id.encode()], buckets(of)
        calls = [([self._keys.offset(view_id, source, partition, bucket) for view_id in view_ids], arguments) for bucket in every]
        for bucket, (reason, *rest) in zip(every, self._run_each("claim", calls), strict=True):
            if reason != b"ok":
                raise _not_claimed(reason, view_ids[rest[0] - 1], loss.where(source, partition, bucket), rest[1], topic_id)
            records |= {Track(view_id, bucket): record.decode(value) for view_id, value in zip(view_ids, rest, strict=True)}
        return Claim(source, partition, token, records)

    def commit(self, commit: Commit) -> Committed | Refused:
        pipeline = self.pipeline()
        pipeline.send((commit,))
        (answer,) = pipeline.answers()
        if isinstance(answer, UnavailableError):
            raise answer
        return answer

    def pipeline(self) -> RedisPipeline:
        return RedisPipeline(self)

    def talk(self) -> Talk:
        """To be sent any number of requests, and asked for all replies."""
        return Wire(self._redis.connection_pool)

    def request(self, name: str, keys: Sequence[bytes], arguments: Sequence[bytes]) -> Request:
        """A script's call."""
        return Request(keys[0], call.evalsha(self._sha[name], keys, arguments))

    def requested(self, commit: Commit) -> Request:
        """Raises ValueError for a commit that no store may apply."""
        return self.request("commit", *call.arguments(commit, self._keys))

    def answer(self, commit: Commit, reply: Reply) -> Answer:
        if isinstance(reply, RedisError):
            error = self._error(reply, f"a commit of {loss.commit_of(commit)}")
            if isinstance(error, UnavailableError):
                return error
            raise error from reply
        reason, *rest = reply
        if reason == b"ok":
            return Committed(rest[0])
        if reason == b"kind":
            raise StateError(loss.other_kind(rest[1], rest[0].decode()))
        return Refused(reason.decode(), rest[0].decode(errors="replace"), tuple(rest[1:]))

    def now_ms(self) -> int:
        with self._answering():
            seconds, microseconds = self._redis.time()
            return int(seconds) * 1000 + int(microseconds) // 1000

    def offsets(self, source: str, partition: int, view_ids: Sequence[str], bucket: Bucket = ONE) -> dict[str, OffsetRecord | None]:
        values = self.read([self._keys.offset(view_id, source, partition, bucket) for view_id in view_ids])
        pairs, place = zip(view_ids, values, strict=True), loss.where(source, partition, bucket)
        return {view_id: None if value is None else loss.decoded(view_id, place, value) for view_id, value in pairs}

    def visible(self, view_id: str, source: str, partition: int, bucket: Bucket = ONE) -> list[tuple[int, int]]:
        with self._answering():
            entries = self._redis.xrange(self._keys.visibility(view_id, source, partition, bucket))
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

    def share(self, name: str, member: str, value: bytes, life_ms: int, most: int) -> list[bytes]:
        arguments = (member.encode(), value, b"%d" % life_ms, b"%d" % most)
        (others,) = self._run_each("share", [([self._keys.shared(name)], arguments)])
        return others

    def check(self) -> list[str]:
        with self._answering():
            info = self._redis.info("everything")
        return problems(info)

    def ping(self) -> str:
        with self._answering():
            return version(self._redis.info("server"))

    def close(self) -> None:
        self._redis.close()

    def _run_each(self, name: str, calls: Sequence[Call]) -> list[list[Any]]:
        """The replies, of which none may be an error."""
        replies = []
        for reply in self._run(name, calls):
            if isinstance(reply, RedisError):
                raise self._error(reply) from reply
            replies.append(reply)
        return replies

    def _run(self, name: str, calls: Sequence[Call]) -> list[Reply]:
        """The script with each of these keys and arguments, in one round trip; a call that brought no reply has its error instead."""
        requests = [self.request(name, keys, arguments) for keys, arguments in calls]
        return self.known(name, requests, self._ask(requests))

    def known(self, name: str, requests: Sequence[Request], replies: list[Reply]) -> list[Reply]:
        """The replies, once every server knows the script."""
        unknown = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:                        # the server is new to it; it says so before it runs anything
            load = call.packed(b"SCRIPT", b"LOAD", self._lua[name].encode())
            again = self._ask([requests[i]._replace(before=(load,)) for i in unknown])
            for i, reply in zip(unknown, again, strict=True):
                replies[i] = reply
        return replies

    def _ask(self, requests: Sequence[Request]) -> list[Reply]:
        """The replies to packed calls."""
        talk = self.talk()
        talk.send(requests)
        return talk.replies()

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except RedisError as problem:
            raise self._error(problem) from problem

    def _error(self, problem: RedisError, write: str = "") -> UnavailableError | StateError:
        """What it means. ``write``: what was sent, where it may have been applied though nobody heard."""
        if isinstance(problem, BusyLoadingError):
            return UnavailableError(f"Redis at {self.place} ({SETTING}) answers nothing yet: {problem}")
        if isinstance(problem, redis.ConnectionError | redis.TimeoutError):
            if write and not isinstance(problem, Unsent):
                return UnknownOutcomeError(
                    f"{write} was sent to Redis at {self.place} and its reply was lost ({problem}); see {SETTING}"
                )
            said = refusal(problem, SETTING) or f"does not answer ({problem}); see {SETTING}"
            return UnavailableError(f"Redis at {self.place} {said}")
        if isinstance(problem, ResponseError):
            if is_not_now(problem):
                return UnavailableError(f"Redis at {self.place} ({SETTING}) takes no writes now: {problem}")
            return StateError(f"Redis at {self.place} ({SETTING}) refused: {problem}")
        return UnavailableError(f"Redis at {self.place} ({SETTING}): {problem}")


class RedisPipeline:
    """Commits on one connection, or on one to each node of a cluster. The server runs them while others are packed."""

    def __init__(self, store: RedisOnlineStore) -> None:
        self._store, self._talk = store, store.talk()
        self._commits: list[Commit] = []
        self._requests: list[Request] = []

    def send(self, commits: Sequence[Commit]) -> None:
        requests = [self._store.requested(commit) for commit in commits]
        self._commits += commits
        self._requests += requests
        self._talk.send(requests)

    def answers(self) -> list[Answer]:
        replies = self._store.known("commit", self._requests, self._talk.replies())
        return [self._store.answer(commit, reply) for commit, reply in zip(self._commits, replies, strict=True)]


def _not_claimed(reason: bytes, view_id: str, place: str, value: bytes, topic_id: str) -> StateError:
    if reason == b"absent":
        return OffsetMissingError(loss.absent(view_id, place))
    if reason == b"format":
        return OffsetMissingError(loss.unknown_format(view_id, place, value))
    if reason == b"dropped":
        return BeingRebuiltError(loss.dropped(view_id, place))
    stored = record.decode(value)
    if reason == b"dirty":
        return OffsetMissingError(loss.dirty(view_id, place, stored))
    return OffsetMissingError(loss.other_topic(view_id, place, stored, topic_id))


def _by_tag(keys: Iterable[bytes]) -> dict[bytes, list[bytes]]:
    """Those that stand in one slot together."""
    found: dict[bytes, list[bytes]] = {}
    for key in keys:
        found.setdefault(tag_of(key), []).append(key)
    return found


def place(url: str) -> str:
    """Where a URL points, without its password."""
    parts = urlsplit(url)
    return parts.path if parts.scheme == "unix" else f"{parts.hostname or 'localhost'}:{parts.port or 6379}"


def version(info: Mapping[str, Any]) -> str:
    """The server's name and version, from INFO."""
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}"


def problems(info: Mapping[str, Any], *, role: str = "master", cluster: bool = False) -> list[str]:
    """What INFO shows to be wrong for a store of state, each with its fix; see ``OnlineStore.check``."""
    found = []
    if int(info.get("cluster_enabled", 0)) and not cluster:
        found.append("this server is a node of a Redis Cluster: write online.url as redis+cluster://HOST:PORT,HOST:PORT")
    oldest = str(info["redis_version"])  # Valkey reports the Redis version that it is compatible with
    if int(oldest.partition(".")[0]) < OLDEST:
        found.append(f"Redis {oldest} is too old: install Redis {OLDEST} or later, or Valkey")
    if info["maxmemory_policy"] != "noeviction":
        found.append(
            f"maxmemory-policy is {info['maxmemory_policy']}, which deletes state and keeps its offsets: "
            f"set `maxmemory-policy noeviction` in redis.conf, or CONFIG SET it"
        )
    if role == "master" and info.get("role", "master") != role:
        found.append("this server is a replica: point online.url at its primary")
    if not int(info["aof_enabled"]):
        found.append(
            "warning: appendonly is off, so a restart falls back to the last snapshot and folds again from there: set "
            "`appendonly yes` and `appendfsync everysec`"
        )
    return found
