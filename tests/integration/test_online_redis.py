"""What only a real server shows: that each check of the commit script carries weight, and how trouble with the server is told."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import lua_cuts
import pytest
import redis
from ports import free_port

from featureflow.define.spec import DEFAULT_PROJECT
from featureflow.errors import BeingRebuiltError, OffsetMissingError, StateError, UnavailableError, UnknownOutcomeError
from featureflow.ingest.commit import Sending
from featureflow.store.keys import Keys
from featureflow.store.log.redis_streams import RedisStreamsLog
from featureflow.store.online import call
from featureflow.store.online.cluster import ClusterOnlineStore, is_cluster, seeds
from featureflow.store.online.embedded import EmbeddedServer
from featureflow.store.online.protocol import Advance, Claim, Commit, Committed, Refused, Track
from featureflow.store.online.reader import AsyncReader
from featureflow.store.online.redis import RedisOnlineStore, place, problems, scripts
from featureflow.store.online.writes import Patch, StateWrite, Writes

KEYS = Keys(DEFAULT_PROJECT)
VIEW, SOURCE, TOPIC = "now@0123456789", "departure", "topic-1"
HEADER = b"head"
KEY = KEYS.state("carrier", "UA", VIEW, SOURCE, None)
OFFSET = KEYS.offset(VIEW, SOURCE, 0)


def moved(claim: Claim, start: int, to: int, *writes: StateWrite) -> Commit:
    return Commit(SOURCE, 0, claim.token, (Advance(VIEW, start, to),), 5, Writes.of(writes))


def whole(value: bytes, expected: int = 0) -> StateWrite:
    return StateWrite(KEY, expected, HEADER, 60_000, whole=value)


def patched(expected: int, at: int, data: bytes, header: bytes = HEADER) -> StateWrite:
    return StateWrite(KEY, expected, header, 60_000, patches=(Patch(at, data),))


def opened(url: str, **cuts: str) -> RedisOnlineStore:
    """A store whose commit script is changed in these places."""
    return (ClusterOnlineStore if is_cluster(url) else RedisOnlineStore)(url, lua=lua_cuts.changed(**cuts))


@pytest.fixture(params=["embedded", "production", "cluster"])
def redis_url(request: pytest.FixtureRequest) -> str:
    """An empty online store of each kind."""
    url: str = request.getfixturevalue(f"{request.param}_redis_url")
    return url


SERVERS = pytest.mark.parametrize("redis_url", ["embedded", "production"], indirect=True)     # of what is one server's alone


@pytest.fixture
def raw(redis_url: str) -> Iterator[redis.Redis]:
    client: Any = redis.RedisCluster(*seeds(redis_url)[0][0]) if is_cluster(redis_url) else redis.Redis.from_url(redis_url)
    with closing(client):
        yield client


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisOnlineStore]:
    with closing(opened(redis_url)) as store:
        yield store


@pytest.fixture
def claim(store: RedisOnlineStore) -> Claim:
    store.create_offsets(VIEW, SOURCE, TOPIC, {0: 0})
    return store.claim(SOURCE, 0, [VIEW], TOPIC)


# -- each guard carries weight -----------------------------------------------------------------------------------------


def zombie(store: RedisOnlineStore, claim: Claim, raw: redis.Redis) -> Committed | Refused:
    """An evicted worker wakes up with a batch in hand that starts where its successor stands."""
    successor = store.claim(SOURCE, 0, [VIEW], TOPIC)
    store.commit(moved(successor, 0, 1, whole(b"headnew")))
    return store.commit(moved(claim, 1, 2, patched(7, 4, b"old")))


def duplicate(store: RedisOnlineStore, claim: Claim, raw: redis.Redis) -> Committed | Refused:
    """A commit arrives a second time."""
    commit = moved(claim, 0, 1, whole(b"headaaaa"))
    store.commit(commit)
    store.commit(moved(claim, 1, 2, patched(8, 4, b"bbbb")))
    return store.commit(moved(claim, 0, 1, patched(8, 4, b"aaaa")))


def broken_before(store: RedisOnlineStore, claim: Claim, raw: redis.Redis) -> Committed | Refused:
    """An earlier commit broke after its first write."""
    raw.setrange(OFFSET, 56, b"%+020d" % 9)
    return store.commit(moved(claim, 0, 1))


def other_length(store: RedisOnlineStore, claim: Claim, raw: redis.Redis) -> Committed | Refused:
    """The key's rows are not those that the worker folded into."""
    store.commit(moved(claim, 0, 1, whole(b"headaaaa")))
    raw.append(KEY, b"bbbb")
    return store.commit(moved(claim, 1, 2, patched(8, 4, b"AAAA")))


def gone(store: RedisOnlineStore, claim: Claim, raw: redis.Redis) -> Committed | Refused:
    """The key has expired, and a patch would leave zeros where its rows were."""
    return store.commit(moved(claim, 0, 1, patched(8, 4, b"AAAA")))


def other_header(store: RedisOnlineStore, claim: Claim, raw: redis.Redis) -> Committed | Refused:
    """The key was rolled up by somebody else, to the same length."""
    store.commit(moved(claim, 0, 1, whole(b"HEADaaaa")))
    return store.commit(moved(claim, 1, 2, patched(8, 4, b"AAAA")))


@pytest.mark.parametrize(
    ("guard", "cut", "trouble", "reason"),
    [
        ("token", "if false then", zombie, "fenced"),
        ("offset", "if false then", duplicate, "offset"),
        ("dirty", "if false then", broken_before, "dirty"),
        ("length", "if false then", other_length, "mismatch"),
        ("length", "if false then", gone, "expired"),
        ("header", "false", other_header, "mismatch"),
    ],
    ids=["token", "offset", "dirty", "length", "expired", "header"],
)
def test_each_guard_refuses_and_nothing_else_would(
    redis_url: str,
    raw: redis.Redis,
    guard: str,
    cut: str,
    trouble: Callable[[RedisOnlineStore, Claim, redis.Redis], Committed | Refused],
    reason: str,
) -> None:
    outcomes = []
    for cuts in ({}, {guard: cut}):
        raw.flushdb()
        with closing(opened(redis_url, **cuts)) as store:
            store.create_offsets(VIEW, SOURCE, TOPIC, {0: 0})
            outcomes.append(trouble(store, store.claim(SOURCE, 0, [VIEW], TOPIC), raw))
    with_guard, without = outcomes
    assert isinstance(with_guard, Refused)
    assert with_guard.reason == reason
    assert isinstance(without, Committed), "the test proves nothing: something else refuses too"


def test_an_error_after_the_first_write_is_loud_and_leaves_the_partition_dirty(redis_url: str) -> None:
    """Lua does not roll back: the writes before the error stay."""
    stop = "error('disk on fire')\n"
    with closing(opened(redis_url, broken=stop)) as store:
        store.create_offsets(VIEW, SOURCE, TOPIC, {0: 0})
        claim = store.claim(SOURCE, 0, [VIEW], TOPIC)
        with pytest.raises(StateError, match="disk on fire"):
            store.commit(moved(claim, 0, 1, whole(b"headtorn")))
        assert store.read([KEY]) == [b"headtorn"]
    with closing(opened(redis_url)) as store:
        assert store.offsets(SOURCE, 0, [VIEW])[VIEW].dirty == 1  # type: ignore[union-attr]  # it is there
        answer = store.commit(moved(claim, 0, 1))
        assert isinstance(answer, Refused)
        assert answer.reason == "dirty"
        with pytest.raises(OffsetMissingError, match=r"broke between offset 0 and 1.*featureflow rebuild now"):
            store.claim(SOURCE, 0, [VIEW], TOPIC)


def test_a_drop_that_is_cut_short_has_marked_the_offsets_before_any_state_went(
    store: RedisOnlineStore, claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.commit(moved(claim, 0, 1, whole(b"headaaaa")))

    look = store._redis.scan_iter

    def dies(match: str, **options: int) -> Iterator[bytes]:
        """Once it looks for anything but offset records."""
        if not match.startswith("offset:"):
            raise redis.ConnectionError("gone")
        return iter(look(match=match, **options))

    with monkeypatch.context() as patch:
        patch.setattr(store._redis, "scan_iter", dies)
        with pytest.raises(UnavailableError):
            store.drop_view(VIEW)
    assert store.read([KEY]) == [b"headaaaa"]
    with pytest.raises(BeingRebuiltError, match="cut short, run `featureflow rebuild now` again"):
        store.claim(SOURCE, 0, [VIEW], TOPIC)
    assert store.drop_view(VIEW) == 3
    assert store.offsets(SOURCE, 0, [VIEW]) == {VIEW: None}


def test_without_the_dirty_mark_a_torn_commit_would_go_unnoticed(redis_url: str) -> None:
    with closing(opened(redis_url, mark="", broken="error('disk on fire')\n")) as store:
        store.create_offsets(VIEW, SOURCE, TOPIC, {0: 0})
        claim = store.claim(SOURCE, 0, [VIEW], TOPIC)
        with pytest.raises(StateError):
            store.commit(moved(claim, 0, 1, whole(b"headtorn")))
        assert store.claim(SOURCE, 0, [VIEW], TOPIC).records[Track(VIEW)].offset == 0
        assert store.read([KEY]) == [b"headtorn"]


def test_what_can_fail_after_the_first_write_is_refused_before_it(store: RedisOnlineStore, claim: Claim, raw: redis.Redis) -> None:
    raw.set(KEYS.visibility(VIEW, SOURCE, 0), "not a stream")
    with pytest.raises(StateError, match="seen:.* is not a stream: .*Run `featureflow rebuild now`"):
        store.commit(moved(claim, 0, 1, whole(b"head")))
    raw.delete(KEYS.visibility(VIEW, SOURCE, 0))
    raw.hset(KEY, "a", "b")
    with pytest.raises(StateError, match=f"{re.escape(KEY.decode())} is not a state: .*Run `featureflow rebuild now`"):
        store.commit(moved(claim, 0, 1, whole(b"head")))
    assert store.offsets(SOURCE, 0, [VIEW])[VIEW].dirty == -1  # type: ignore[union-attr]  # it is there
    raw.delete(OFFSET)
    raw.lpush(OFFSET, "no record")
    with pytest.raises(StateError, match="offset:.* is not an offset record: .*Run `featureflow rebuild now`"):
        store.commit(moved(claim, 0, 1, whole(b"head")))
    with pytest.raises(OffsetMissingError, match="has a format .*something else writes to this database.*`featureflow rebuild now`"):
        store.claim(SOURCE, 0, [VIEW], TOPIC)
    assert store.drop_view(VIEW, places=[(SOURCE, 0)]) > 0
    assert raw.keys() == []


@SERVERS
@pytest.mark.parametrize(
    "spoil",
    [
        lambda keys, values: keys.pop(),
        lambda keys, values: values.pop(),
        lambda keys, values: values.append(b"more"),
        lambda keys, values: values.__setitem__(4, 7),
        lambda keys, values: values.__setitem__(0, b"short"),
        *(
            lambda keys, values, column=column, spoilt=spoilt: values.__setitem__(column, spoilt(values[column]))
            for column in (-4, -3, -2, -1)                     # heads, headers, places, data
            for spoilt in (lambda b: b + b"more", lambda b: b[:-1] or b"m", lambda b: b[:-8] + b"m", lambda b: b"" if b else b"m")
        ),
        lambda keys, values: values.__setitem__(-2, b"\1\0\0\0\4\0\0\0"),
        lambda keys, values: values.__setitem__(-2, b"\0\0\0\0\0\0\0\0"),
        lambda keys, values: values.__setitem__(-2, b"\0\0\0\0\xff\xff\xff\xff"),
    ],
)
def test_wrong_arguments_are_refused_by_the_script_itself(
    store: RedisOnlineStore, claim: Claim, raw: redis.Redis, spoil: Callable[[list[bytes], list[bytes | int]], object]
) -> None:
    keys, values = call.arguments(moved(claim, 0, 1, StateWrite(KEY, 0, b"", 0, patches=(Patch(0, b"head"),))), KEYS)
    whole_keys, whole_values = keys.copy(), values.copy()
    spoil(keys, values)
    assert (keys, values) != (whole_keys, whole_values)
    with pytest.raises(redis.ResponseError, match="commit|unpack"):
        raw.eval(scripts()["commit"], len(keys), *keys, *values)
    assert raw.exists(KEY) == 0
    assert store.offsets(SOURCE, 0, [VIEW])[VIEW].offset == 0  # type: ignore[union-attr]  # it is there


def test_every_key_that_the_script_touches_is_declared(store: RedisOnlineStore, claim: Claim, raw: redis.Redis) -> None:
    before = set(raw.keys())
    keys, values = call.arguments(moved(claim, 0, 1, whole(b"head")), KEYS)
    raw.eval(scripts()["commit"], len(keys), *keys, *values)
    assert set(raw.keys()) - before <= set(keys)


def test_a_write_renews_the_time_to_live_and_zero_is_for_ever(store: RedisOnlineStore, claim: Claim, raw: redis.Redis) -> None:
    other = KEYS.state("carrier", "DL", VIEW, SOURCE, None)
    forever = StateWrite(other, 0, b"", 0, whole=b"head")
    store.commit(moved(claim, 0, 1, StateWrite(KEY, 0, b"", 60_000, whole=b"head"), forever))
    assert 0 < raw.pttl(KEY) <= 60_000
    assert raw.pttl(other) == -1
    store.commit(moved(claim, 1, 2, StateWrite(KEY, 4, HEADER, 3_600_000, patches=(Patch(4, b"row"),))))
    assert 60_000 < raw.pttl(KEY) <= 3_600_000


def test_a_patch_renews_the_time_to_live_from_the_moment_that_it_names(store: RedisOnlineStore, claim: Claim, raw: redis.Redis) -> None:
    born = store.commit(moved(claim, 0, 1, StateWrite(KEY, 0, b"", 60_000, whole=b"head")))
    assert isinstance(born, Committed)
    early = StateWrite(KEY, 4, HEADER, 3_600_000, (Patch(4, b"row"),), renew_ms=born.committed_ms + 10**9)
    store.commit(moved(claim, 1, 2, early))
    assert raw.get(KEY) == b"headrow"
    assert raw.pttl(KEY) <= 60_000
    store.commit(moved(claim, 2, 3, StateWrite(KEY, 7, HEADER, 3_600_000, (Patch(4, b"ROW"),), renew_ms=born.committed_ms)))
    assert raw.pttl(KEY) > 60_000


def test_scripts_are_loaded_again_after_the_server_forgot_them(store: RedisOnlineStore, claim: Claim, raw: redis.Redis) -> None:
    store.commit(moved(claim, 0, 1))
    raw.script_flush()
    assert isinstance(store.commit(moved(claim, 1, 2)), Committed)
    raw.script_flush()
    pipeline = store.pipeline()
    for start in (2, 3, 4):
        pipeline.send([moved(claim, start, start + 1)])
    assert all(isinstance(answer, Committed) for answer in pipeline.answers()), "in their order"


# -- trouble with the server -------------------------------------------------------------------------------------------


class Proxy:
    """Between client and server; ``cut`` drops the connection with the next reply in hand, after the server acted."""

    def __init__(self, server: redis.Redis) -> None:
        options = server.connection_pool.connection_kwargs
        self._target = options["path"] if "path" in options else (options["host"], options["port"])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.cut = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if isinstance(self._target, str):
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._target)
            else:
                server = socket.create_connection(self._target)
            threading.Thread(target=self._carry, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._carry, args=(server, client, True), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, replies: bool) -> None:
        try:
            while data := source.recv(65_536):
                if replies and self.cut:
                    self.cut = False
                    break
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            end.close()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def proxy(raw: redis.Redis) -> Iterator[Proxy]:
    with closing(Proxy(raw)) as proxy:
        yield proxy


@pytest.fixture
def far(proxy: Proxy, raw: redis.Redis) -> Iterator[RedisOnlineStore]:
    """The same store through the proxy."""
    database = raw.connection_pool.connection_kwargs.get("db", 0)
    with closing(RedisOnlineStore(f"redis://127.0.0.1:{proxy.port}/{database}")) as far:
        yield far


@SERVERS
def test_a_commit_whose_reply_is_lost_is_sent_once_and_its_outcome_is_unknown(
    proxy: Proxy, far: RedisOnlineStore, claim: Claim
) -> None:
    far.commit(moved(claim, 0, 1, whole(b"headaaaa")))
    proxy.cut = True
    with pytest.raises(UnknownOutcomeError, match=r"online\.url"):
        far.commit(moved(claim, 1, 2, patched(8, 8, b"bbbb")))
    assert far.offsets(SOURCE, 0, [VIEW])[VIEW].offset == 2, "it was applied"  # type: ignore[union-attr]  # it is there
    assert far.read([KEY]) == [b"headaaaabbbb"], "and not twice"
    assert [to for _, to in far.visible(VIEW, SOURCE, 0)] == [1, 2]


@SERVERS
def test_of_many_commits_on_their_way_whose_replies_are_lost_each_is_found_out_and_none_is_applied_twice(
    proxy: Proxy, far: RedisOnlineStore, claim: Claim
) -> None:
    far.commit(moved(claim, 0, 1, whole(b"head")))
    sending = Sending(far)
    for start in range(1, 101):
        proxy.cut |= start == 50
        sending.send([moved(claim, start, start + 1, patched(3 + start, 3 + start, b"x"))])
    assert all(isinstance(outcome, Committed) for outcome in sending.outcomes())
    assert not proxy.cut, "replies were lost"
    assert far.read([KEY]) == [b"head" + b"x" * 100]
    assert [to for _, to in far.visible(VIEW, SOURCE, 0)] == list(range(1, 102))


def test_a_server_that_is_away_is_named_with_its_setting_and_without_its_password() -> None:
    port = free_port()
    store = RedisOnlineStore(f"redis://user:secret@127.0.0.1:{port}/0")
    for ask in (store.ping, store.check, lambda: store.read([b"a"]), lambda: store.claim(SOURCE, 0, [VIEW], TOPIC)):
        with pytest.raises(UnavailableError, match=r"online\.url") as told:
            ask()
        assert f"127.0.0.1:{port}" in str(told.value)
        assert "secret" not in str(told.value)


def test_a_url_that_is_none_is_told_before_anything_is_sent() -> None:
    with pytest.raises(UnavailableError, match=r"online\.url.*redis://HOST"):
        RedisOnlineStore("http://localhost")


def test_a_full_server_takes_no_writes_and_says_so_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server, redis.Redis.from_url(server.url) as raw, closing(opened(server.url)) as store:
        store.create_offsets(VIEW, SOURCE, TOPIC, {0: 0})
        claim = store.claim(SOURCE, 0, [VIEW], TOPIC)
        raw.config_set("maxmemory", 1)
        with pytest.raises(UnavailableError, match="takes no writes now"):
            store.commit(moved(claim, 0, 1, whole(b"head")))
        raw.config_set("maxmemory", 0)
        assert isinstance(store.commit(moved(claim, 0, 1, whole(b"head"))), Committed)


def test_a_server_that_evicts_is_refused_with_the_fix(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server, redis.Redis.from_url(server.url) as raw, closing(opened(server.url)) as store:
        assert [problem for problem in store.check() if not problem.startswith("warning:")] == []
        raw.config_set("maxmemory-policy", "volatile-lru")
        assert any("noeviction" in problem and "volatile-lru" in problem for problem in store.check())


def test_settings_that_lose_state_are_told_from_those_that_cost_time() -> None:
    well = {"redis_version": "8.0.2", "maxmemory_policy": "noeviction", "aof_enabled": 1, "role": "master"}
    assert problems(well) == []
    for change, says in [
        ({"redis_version": "6.2.14"}, "too old"),
        ({"maxmemory_policy": "allkeys-lru"}, "maxmemory-policy noeviction"),
        ({"role": "slave"}, "primary"),
    ]:
        (problem,) = problems(well | change)
        assert says in problem
        assert not problem.startswith("warning:")
    (warning,) = problems(well | {"aof_enabled": 0})
    assert warning.startswith("warning: appendonly is off")


def test_a_place_never_shows_a_password() -> None:
    assert place("redis://user:secret@example:6380/1") == "example:6380"
    assert place("unix:///run/online.sock?password=secret") == "/run/online.sock"


@pytest.mark.parametrize("login", ["", ":wrong@"])
def test_a_login_that_is_refused_is_said_with_where_the_password_stands(tmp_path: Path, login: str) -> None:
    port = free_port()
    with EmbeddedServer(tmp_path) as server, redis.Redis.from_url(server.url) as raw:
        raw.config_set("port", port)
        raw.config_set("requirepass", "s3cret")
        url = f"redis://{login}127.0.0.1:{port}/0"

        async def read() -> None:
            reader = AsyncReader(url)
            try:
                await reader.start()
            finally:
                await reader.close()

        with closing(opened(url)) as store, closing(RedisStreamsLog(url)) as log:
            for setting, ask in (("online", store.ping), ("online", lambda: asyncio.run(read())), ("log", log.ping)):
                with pytest.raises(UnavailableError, match=rf"refuses the login.*{setting}\.url, as redis://:PASSWORD@HOST") as caught:
                    ask()
                assert "HELLO" not in str(caught.value)
        raw.config_set("requirepass", "")  # or it could not be told to end
