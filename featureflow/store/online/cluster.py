"""The online store on a Redis Cluster: each bucket on the node that has its slot.

redis-py knows the topology, and does what may be done twice. Commits and claims are sent here, each to the owner of its bucket, those
of one node in one go, and never again unless the answer says that nothing was applied:

    MOVED                          another node has the slot: send again, there
    ASK                            the slot is on its way and these keys are not here: send again there, behind ASKING
    TRYAGAIN, CLUSTERDOWN,         nothing was applied, and it may be soon: UnavailableError, as where one server takes no writes
    LOADING, READONLY, ...
    no reply                       nobody knows: UnknownOutcomeError

Replicas follow asynchronously: at a failover a primary's last commits may be lost. A bucket's state and offsets are in one slot, so they
go back together, and the log has what they lack.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, RedisClusterException, RedisError, ResponseError
from redis.retry import Retry

from featureflow.errors import UnavailableError
from featureflow.store.online import call, tls
from featureflow.store.online.redis import (
    SETTING,
    RedisOnlineStore,
    problems,
    version,
)
from featureflow.store.online.wire import Reply, Request, Talk, Unsent, Wire

SCHEMES = ("redis+cluster", "rediss+cluster")
BUCKETS = 16                               # of a project that is new to a cluster
REDIRECTS = 5
SLOTS = 16_384
ASKING = call.packed(b"ASKING")
Address = tuple[str, int]


def is_cluster(url: str) -> bool:
    """Whether the URL names nodes of a Redis Cluster."""
    return url.partition(":")[0] in SCHEMES


def seeds(url: str) -> tuple[list[tuple[str, int]], dict[str, Any]]:
    """``redis+cluster://[user:password@]host:port,host:port[?ssl_...]`` -> addresses, and what redis-py is told of all nodes.

    Raises UnavailableError for what is none.
    """
    try:
        parts = urlsplit(url)
        login, _, hosts = parts.netloc.rpartition("@")
        addresses = []
        for text in hosts.split(","):
            one = urlsplit(f"//{text}")
            if not one.hostname:
                raise ValueError("a host is missing")
            addresses.append((one.hostname, one.port or 6379))
        if parts.path not in ("", "/", "/0"):
            raise ValueError(f"a cluster has no database {parts.path!r}")
        options = tls.options(f"{parts.scheme.partition('+')[0]}://{addresses[0][0]}?{parts.query}")
        if "db" in options:
            raise ValueError("a cluster has no databases")
        if parts.scheme == "rediss+cluster":
            tls.context(options)
    except ValueError as problem:
        raise UnavailableError(f"{SETTING} is no URL of a Redis Cluster: {problem}. Write redis+cluster://HOST:PORT,HOST:PORT") from None
    options = {name: value for name, value in options.items() if name != "host"}
    options |= {"ssl": True} if parts.scheme == "rediss+cluster" else {}
    user, _, password = login.partition(":")
    if password:
        options["password"] = unquote(password)
        if user:
            options["username"] = unquote(user)
    return addresses, options


class ClusterOnlineStore(RedisOnlineStore):
    """As ``RedisOnlineStore``. Any node of ``url`` that answers tells of the others."""

    _lost = False                          # a node did not answer: the topology may be another

    @staticmethod
    def _place(url: str) -> str:
        return ",".join(f"{host}:{port}" for host, port in seeds(url)[0])

    @cached_property
    def _redis(self) -> Any:
        """redis-py's client, made when the cluster is first asked. Raises RedisError."""
        addresses, options = seeds(self._url)
        try:
            return RedisCluster(
                startup_nodes=[ClusterNode(*address) for address in addresses],  # type: ignore[no-untyped-call]  # untyped in redis-py
                require_full_coverage=False,
                retry=Retry(NoBackoff(), 2),               # of what is no script; see ``_ClusterTalk``
                socket_timeout=self._timeout_s,
                socket_connect_timeout=self._timeout_s,
                socket_keepalive=True,
                **options,
            )
        except RedisClusterException as problem:
            raise Unsent(str(problem)) from problem

    def now_ms(self) -> int:
        """Of the node that has the documents. Nodes' clocks are taken to agree to well below a second, as a scorer's and theirs are."""
        seconds, microseconds = self._one(Request(self._keys.meta("time"), call.packed(b"TIME")))
        return int(seconds) * 1000 + int(microseconds) // 1000

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        slots: dict[int, list[int]] = {}
        for place, key in enumerate(keys):
            slots.setdefault(key_slot(key), []).append(place)
        requests = [Request(keys[own[0]], call.packed(b"MGET", *(keys[i] for i in own))) for own in slots.values()]
        values: list[bytes | None] = [None] * len(keys)
        for own, reply in zip(slots.values(), self._ask(requests), strict=True):
            if isinstance(reply, RedisError):
                raise self._error(reply) from reply
            for i, value in zip(own, reply, strict=True):
                values[i] = value
        return values

    def put_meta(self, name: str, value: bytes) -> None:
        key = self._keys.meta(name)
        self._one(Request(key, call.packed(b"SET", key, value)))

    def get_meta(self, name: str) -> bytes | None:
        (value,) = self.read([self._keys.meta(name)])
        return value

    def check(self) -> list[str]:
        """Of every node, a replica's too: any may be a primary tomorrow."""
        found: list[str] = []
        with self._answering():
            cluster = self._redis
            cluster.nodes_manager.initialize()
            for node in cluster.get_primaries():
                client = cluster.get_redis_connection(node)
                found += [_of(node, problem) for problem in problems(client.info("everything"), cluster=True)]
                found += [_of(node, problem) for problem in _lags(client)]
            replicas, failed = _replicas(cluster)
            for node in replicas:
                client = cluster.get_redis_connection(node)
                try:
                    info = client.info("everything")
                except redis.ConnectionError as problem:
                    found.append(f"warning: the replica {node.name} does not answer ({problem}): start it, or CLUSTER FORGET it")
                    continue
                finally:
                    if cluster.get_node(node_name=node.name) is None:      # redis-py would not close it
                        client.close()
                found += [_of(node, problem) for problem in problems(info, role="slave", cluster=True)]
        found += [f"warning: {node} is taken for failed, so its settings are not known: start it, or CLUSTER FORGET it" for node in failed]
        return list(dict.fromkeys(found))

    def ping(self) -> str:
        with self._answering():
            return f"{version(self._redis.get_primaries()[0].redis_connection.info('server'))} Cluster"

    def close(self) -> None:
        if "_redis" in vars(self):
            self._redis.close()

    @property
    def one_server(self) -> bool:
        return False

    def _whereabouts(self, keys: Collection[bytes]) -> object:
        """Slot -> its owner. One that is on its way, or has no owner, is like no other."""
        wanted = {key_slot(key) for key in keys} or range(SLOTS)
        found: dict[int, object] = {slot: object() for slot in wanted}
        with self._answering():
            cluster = self._redis
            cluster.nodes_manager.initialize()
            for primary in cluster.get_primaries():
                nodes = cluster.get_redis_connection(primary).execute_command("CLUSTER NODES").items()
                [(owner, mine)] = [(address, node) for address, node in nodes if "myself" in node["flags"].split(",")]
                for first, *last in mine["slots"]:
                    found |= {slot: owner for slot in range(int(first), int(last[0] if last else first) + 1) if slot in found}
                found |= {slot: object() for slot in (int(one["slot"]) for one in mine["migrations"]) if slot in found}
        return found

    def _one(self, request: Request) -> Any:
        (reply,) = self._ask((request,))
        if isinstance(reply, RedisError):
            raise self._error(reply) from reply
        return reply

    def talk(self) -> Talk:
        return _ClusterTalk(self)

    def parties(
        self, requests: Sequence[Request], waiting: Mapping[int, Address | None]
    ) -> dict[str, tuple[Any, list[int]]]:
        """Of each node that is to be asked, by name, its connection pool, and which requests. Raises RedisError where one has no owner."""
        parties: dict[str, tuple[Any, list[int]]] = {}
        try:
            cluster = self._redis
            manager = cluster.nodes_manager
            if self._lost:
                manager.initialize()
                self._lost = False
            for i, address in waiting.items():
                node = manager.get_node(*address) if address else manager.get_node_from_slot(key_slot(requests[i].key))
                if node is None and address is not None:
                    manager.initialize()
                    node = manager.get_node(*address)
                if node is None:
                    raise Unsent(f"{address} is no node of the cluster")
                if node.name not in parties:
                    parties[node.name] = cluster.get_redis_connection(node).connection_pool, []
                parties[node.name][1].append(i)
        except RedisClusterException as problem:
            raise Unsent(str(problem)) from problem
        return parties

    def redirect(self, reply: Reply) -> Literal["owner"] | Address | None:
        """Who is to be asked instead; None: nobody."""
        if isinstance(reply, MovedError):
            self._redis.nodes_manager.move_slot(reply)
            return "owner"
        if isinstance(reply, AskError):
            return reply.host, reply.port
        if isinstance(reply, redis.ConnectionError | redis.TimeoutError | ClusterDownError):
            self._lost = True
        return None

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            with super()._answering():
                yield
        except RedisClusterException as problem:
            raise UnavailableError(f"the Redis Cluster at {self.place} does not answer ({problem}); see {SETTING}") from problem


class _ClusterTalk:
    """A wire to each node that is asked. What a node refers elsewhere goes there once its reply is read, in the order of the requests."""

    def __init__(self, store: ClusterOnlineStore) -> None:
        self._store, self._requests = store, list[Request]()
        self._wires: dict[str, tuple[Wire, list[int]]] = {}
        self._replies: dict[int, Reply] = {}

    def send(self, requests: Sequence[Request]) -> None:
        first = len(self._requests)
        self._requests += requests
        self._send(dict.fromkeys(range(first, len(self._requests))))

    def _send(self, waiting: Mapping[int, Address | None]) -> None:
        """``waiting``: who is to be asked though not the owner."""
        try:
            parties = self._store.parties(self._requests, waiting)
        except RedisError as problem:
            self._replies |= dict.fromkeys(waiting, Unsent(str(problem)))
            return
        for name, (pool, mine) in parties.items():
            if name not in self._wires:
                self._wires[name] = Wire(pool), []
            wire, asked = self._wires[name]
            wire.send([_asking(self._requests[i]) if waiting[i] else self._requests[i] for i in mine])
            asked += mine

    def replies(self) -> list[Reply]:
        for left in reversed(range(REDIRECTS)):
            heard = {i: reply for wire, asked in self._wires.values() for i, reply in zip(asked, wire.replies(), strict=True)}
            self._replies |= heard
            self._wires.clear()
            again = {i: to for i in sorted(heard) if (to := self._store.redirect(heard[i])) is not None}
            if not (again and left):
                break
            self._send({i: None if to == "owner" else to for i, to in again.items()})
        return [self._replies[i] for i in range(len(self._requests))]


def _asking(request: Request) -> Request:
    """For a slot that is on its way to whom it is sent. It holds for one command, so it stands right before it."""
    return request._replace(before=(*request.before, ASKING))


def _of(node: Any, problem: str) -> str:
    warning, _, rest = problem.rpartition("warning: ")
    return f"{'warning: ' if warning or problem.startswith('warning: ') else ''}{node.name}: {rest}"


def _replicas(cluster: Any) -> tuple[list[ClusterNode], list[str]]:
    """Those that are taken to be up, and the addresses of nodes, of either kind, that a primary takes for failed.

    redis-py knows a replica only once it has something of its primary's, and while no node takes it for failed.
    """
    replicas, failed = {node.name: node for node in cluster.get_replicas()}, set()
    for primary in cluster.get_primaries():
        for address, node in cluster.get_redis_connection(primary).execute_command("CLUSTER NODES").items():
            flags = node["flags"].split(",")
            if "fail" in flags:
                failed.add(address)
            elif "slave" in flags and address not in replicas:
                host, _, port = address.rpartition(":")
                replicas[address] = ClusterNode(host, int(port))  # type: ignore[no-untyped-call]  # untyped in redis-py
    return [node for address, node in replicas.items() if address not in failed], sorted(failed)


def _lags(client: Any) -> list[str]:
    """Whether a primary goes on for long without a replica that has its commits."""
    try:
        settings = client.config_get("min-replicas-to-write")
    except ResponseError:                  # a provider's, which does not tell
        return []
    if int(settings.get("min-replicas-to-write", 1)):
        return []
    lost = "what a primary takes while it is cut off is lost at a failover, and folded again"
    return [f"warning: min-replicas-to-write is 0, so {lost}: set it to 1"]
