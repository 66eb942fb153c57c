"""A Redis Cluster of real processes as online store: who is asked, what is said of its settings, and reads while a slot moves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot
from redis_cluster import PATIENT_MS, RealCluster, running, until
from worker_rig import RIDER, RIDERS, Rig

from featureflow.define.spec import DEFAULT_PROJECT
from featureflow.errors import OffsetMissingError, UnavailableError
from featureflow.ingest.worker import Worker
from featureflow.store.keys import Keys
from featureflow.store.online.cluster import ClusterOnlineStore, is_cluster, seeds
from featureflow.store.online.cluster_reader import ClusterReader
from featureflow.store.online.open import buckets_at_first
from featureflow.store.online.protocol import DROPPED, Advance, Commit, Committed
from featureflow.store.online.redis import RedisOnlineStore
from featureflow.store.online.writes import Patch, StateWrite, Writes

VIEW, SOURCE, TOPIC = "now@0123456789", "departure", "topic-1"
KEYS = Keys(DEFAULT_PROJECT, 16)
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    with running(tmp_path_factory.mktemp("cluster"), PATIENT_MS) as made:
        yield made


@pytest.fixture
def cluster(_cluster: RealCluster) -> RealCluster:
    _cluster.empty()
    return _cluster


@pytest.fixture
def store(cluster: RealCluster) -> Iterator[ClusterOnlineStore]:
    with closing(ClusterOnlineStore(cluster.url)) as made:
        yield made


def keys_of(entity_id: str) -> list[bytes]:
    bucket = KEYS.buckets[KEYS.number(entity_id)]
    return [KEYS.offset(VIEW, SOURCE, 0, bucket), KEYS.state("user", entity_id, VIEW, SOURCE, None)]


def test_a_url_names_nodes_and_whoever_logs_in() -> None:
    assert seeds("redis+cluster://a:7000,b:7001/") == ([("a", 7000), ("b", 7001)], {})
    assert seeds("rediss+cluster://me:p%40ss@a,[::1]:7001") == (
        [("a", 6379), ("::1", 7001)], {"ssl": True, "username": "me", "password": "p@ss"},
    )  # fmt: skip
    for wrong in ("redis+cluster://", "redis+cluster://a:7000/3", "redis+cluster://a:port"):
        with pytest.raises(UnavailableError, match=r"online\.url is no URL of a Redis Cluster"):
            ClusterOnlineStore(wrong)
        with pytest.raises(UnavailableError, match=r"online\.url is no URL of a Redis Cluster"):
            ClusterReader(wrong)
    assert is_cluster("redis+cluster://a")
    assert not is_cluster("redis://a")
    assert [buckets_at_first(url) for url in ("redis+cluster://a", "redis://a", "unix:///a")] == [16, 32, 32]


def test_a_cluster_that_is_away_is_named_with_its_setting_and_without_its_password() -> None:
    store = ClusterOnlineStore("redis+cluster://user:secret@127.0.0.1:1,127.0.0.1:2")
    for ask in (store.ping, store.check, lambda: store.read([b"a"]), lambda: store.claim(SOURCE, 0, [VIEW], TOPIC)):
        with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1,127\.0\.0\.1:2.*online\.url") as told:
            ask()
        assert "secret" not in str(told.value)


def test_commits_follow_a_slot_and_scripts_that_a_node_lost(cluster: RealCluster, store: ClusterOnlineStore) -> None:
    store.create_offsets(VIEW, SOURCE, TOPIC, {0: 0}, 16)
    claim = store.claim(SOURCE, 0, [VIEW], TOPIC, 16)
    mine = KEYS.buckets[KEYS.number("ada")]

    def commit(start: int, write: StateWrite) -> Committed:
        answer = store.commit(Commit(SOURCE, 0, claim.token, (Advance(VIEW, start, start + 1, mine),), 5, Writes.of([write])))
        assert isinstance(answer, Committed), answer
        return answer

    offset_key, key = keys_of("ada")
    commit(0, StateWrite(key, 0, b"head", 60_000, whole=b"headaaaa"))
    cluster.move(key_slot(key))                                    # MOVED
    commit(1, StateWrite(key, 8, b"head", 60_000, patches=(Patch(8, b"bbbb"),)))
    source, target = cluster.begin_move(key_slot(key))
    cluster.move_keys(key_slot(key), source, target)
    target.client.script_flush()                                   # ASK, and then NOSCRIPT
    commit(2, StateWrite(key, 12, b"head", 60_000, patches=(Patch(12, b"cccc"),)))
    cluster.end_move(key_slot(key), source, target)
    assert store.read([key]) == [b"headaaaabbbbcccc"]
    stored = store.offsets(SOURCE, 0, [VIEW], mine)[VIEW]
    assert stored is not None
    assert stored.offset == 3
    assert [to for _, to in store.visible(VIEW, SOURCE, 0, mine)] == [1, 2, 3]
    assert offset_key in [k for node in cluster.primaries() for k in node.client.keys("offset:*")]


def test_commits_on_their_way_follow_a_slot_that_moves_between_two_of_them(cluster: RealCluster, store: ClusterOnlineStore) -> None:
    store.create_offsets(VIEW, SOURCE, TOPIC, {0: 0}, 16)
    claim = store.claim(SOURCE, 0, [VIEW], TOPIC, 16)
    _, key = keys_of("ada")
    commits = [
        Commit(
            SOURCE, 0, claim.token, (Advance(VIEW, start, start + 1, KEYS.buckets[KEYS.number("ada")]),), 5,
            writes=Writes.of([
                StateWrite(key, 4 + start, b"head", 60_000, patches=(Patch(4 + start, b"x"),)) if start
                else StateWrite(key, 0, b"head", 60_000, whole=b"headx")
            ]),
        )
        for start in range(6)
    ]  # fmt: skip
    pipeline = store.pipeline()
    pipeline.send(commits[:1])
    pipeline.send(commits[1:3])
    cluster.move(key_slot(key))
    pipeline.send(commits[3:4])
    pipeline.send(commits[4:])
    assert all(isinstance(answer, Committed) for answer in pipeline.answers())
    assert store.read([key]) == [b"head" + b"x" * 6]


def written(store: ClusterOnlineStore, cluster: RealCluster, entity_id: str) -> tuple[bytes, bytes, bytes]:
    """A view of 16 buckets of which an entity has state: keys of its offset record and its state, and the record's bytes."""
    store.create_offsets(VIEW, SOURCE, TOPIC, {0: 0}, 16)
    claim = store.claim(SOURCE, 0, [VIEW], TOPIC, 16)
    offset, state = keys_of(entity_id)
    bucket = KEYS.buckets[KEYS.number(entity_id)]
    one = Writes.of([StateWrite(state, 0, b"head", 60_000, whole=b"headaaaa")])
    assert isinstance(store.commit(Commit(SOURCE, 0, claim.token, (Advance(VIEW, 0, 1, bucket),), 5, one)), Committed)
    (record,) = store.read([offset])
    assert record is not None
    return offset, state, record


def assert_dropped(store: ClusterOnlineStore, state: bytes) -> None:
    """No state is left, and every record is marked until it is made anew."""
    assert store.read([state]) == [None]
    stored = [store.offsets(SOURCE, 0, [VIEW], bucket)[VIEW] for bucket in KEYS.buckets]
    assert [one.dirty for one in stored if one is not None] == [DROPPED] * 16
    assert store.create_offsets(VIEW, SOURCE, TOPIC, {0: 0}, 16) == [0]


def test_a_slot_that_moves_to_a_node_already_scanned_takes_no_state_past_a_drop(
    cluster: RealCluster, store: ClusterOnlineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = store._redis
    scanned = [node.port for node in client.get_primaries()]        # in this order
    primaries = cluster.primaries()
    source, target = next(
        (node, to) for node, to in zip(primaries, primaries[1:] + primaries[:1], strict=True)
        if scanned.index(to.port) < scanned.index(node.port)
    )  # fmt: skip
    entity_id = next(f"u{i}" for i in range(1_000) if cluster.owner(keys_of(f"u{i}")[1]) is source)
    _, state, _ = written(store, cluster, entity_id)
    ask, moved = client._execute_command, list[int]()

    def asked(node: Any, *command: Any, **options: Any) -> Any:
        answer = ask(node, *command, **options)
        if not moved and command[0] == "SCAN" and node.port == target.port and any(str(part).startswith("feat:") for part in command):
            moved.append(key_slot(state))
            cluster.move(key_slot(state))
        return answer

    monkeypatch.setattr(client, "_execute_command", asked)
    store.drop_view(VIEW, for_good=False, places=[(SOURCE, 0)], of=16)
    assert moved
    assert_dropped(store, state)


@pytest.mark.parametrize("kind", ["seen:", "feat:", "ids:", "plain:"])
def test_a_mark_that_is_lost_while_state_is_dropped_is_made_again(
    cluster: RealCluster, store: ClusterOnlineStore, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """As where a primary dies before its replica has the mark: the record has its token and offset again, and the state goes on going."""
    offset, state, record = written(store, cluster, "ada")
    client, lost = store._redis, list[bytes]()
    scan = client.scan_iter

    def scanned(match: str, **options: Any) -> Any:
        if match.startswith(kind) and not lost:
            lost.append(offset)
            cluster.owner(offset).client.set(offset, record)
        return scan(match=match, **options)

    monkeypatch.setattr(client, "scan_iter", scanned)
    store.drop_view(VIEW, for_good=False, places=[(SOURCE, 0)], of=16)
    assert lost
    assert_dropped(store, state)


def test_a_view_is_not_said_to_be_dropped_while_one_of_its_slots_is_on_its_way(cluster: RealCluster, store: ClusterOnlineStore) -> None:
    _, state, _ = written(store, cluster, "ada")
    source, target = cluster.begin_move(key_slot(state))
    with pytest.raises(UnavailableError, match="run `featureflow rebuild now`"):
        store.drop_view(VIEW, for_good=False, places=[(SOURCE, 0)], of=16)
    with pytest.raises(UnavailableError, match="run `featureflow apply --prune`"):
        store.drop_view(VIEW, places=[(SOURCE, 0)], of=16)
    cluster.end_move(key_slot(state), source, target)
    store.drop_view(VIEW, places=[(SOURCE, 0)], of=16)
    assert [key for node in cluster.primaries() for key in node.client.keys("*")] == []


def test_keys_half_way_between_two_nodes_are_read_one_by_one_or_not_at_all(cluster: RealCluster, store: ClusterOnlineStore) -> None:
    store.create_offsets(VIEW, SOURCE, TOPIC, {0: 0}, 16)
    names = keys_of("ada")
    slot = key_slot(names[0])
    cluster.owner(names[1]).client.set(names[1], b"state")
    source, target = cluster.begin_move(slot)
    source.client.execute_command("MIGRATE", "127.0.0.1", target.port, names[1], 0, 5_000)

    async def main() -> None:
        reader = ClusterReader(cluster.url, timeout_s=PATIENCE_S)
        try:
            offset, state = await reader.read(names)
            assert offset is not None
            assert state == b"state"
            with pytest.raises(UnavailableError, match="on its way to another node"):
                await reader.read([names[1], KEYS.state("user", "ada", VIEW, "other", None)], 1.0)
        finally:
            await reader.close()

    try:
        with pytest.raises(UnavailableError, match="TRYAGAIN|takes no writes now"):
            store.claim(SOURCE, 0, ["also@1", VIEW], TOPIC, 16)
        asyncio.run(main())
    finally:
        cluster.end_move(slot, source, target)


def test_a_reader_asks_each_node_once_and_follows_a_slot(cluster: RealCluster) -> None:
    ids = [f"u{i}" for i in range(60)]
    names = [keys_of(entity_id)[1] for entity_id in ids]
    for name in names:
        cluster.owner(name).client.set(name, name[::-1])

    async def main() -> None:
        reader = ClusterReader(cluster.url, timeout_s=PATIENCE_S)
        assert await reader.read(names) == [name[::-1] for name in names]
        cluster.move(key_slot(names[0]))
        assert await reader.read(names) == [name[::-1] for name in names]
        assert await reader.read([]) == []
        assert "Cluster" in await reader.ping()
        assert reader.connected
        await reader.close()

    asyncio.run(main())


def test_every_nodes_settings_are_looked_at_a_replicas_too(cluster: RealCluster, store: ClusterOnlineStore) -> None:
    until(cluster.well, "the cluster is well")
    assert all(problem.startswith("warning: ") and "min-replicas-to-write" in problem for problem in store.check())
    for node in (cluster.nodes[1], cluster.nodes[5]):
        node.client.config_set("maxmemory-policy", "allkeys-lru")
        (problem,) = [found for found in store.check() if not found.startswith("warning: ")]
        assert problem.startswith(f"127.0.0.1:{node.port}: maxmemory-policy is allkeys-lru")
        node.client.config_set("maxmemory-policy", "noeviction")
    for node in cluster.nodes:
        node.client.config_set("min-replicas-to-write", 1)
    assert store.check() == []
    for node in cluster.nodes:
        node.client.config_set("min-replicas-to-write", 0)


def test_one_node_of_a_cluster_is_not_taken_for_a_server(cluster: RealCluster) -> None:
    with closing(RedisOnlineStore(f"redis://127.0.0.1:{cluster.nodes[0].port}/0")) as alone:
        assert any("write online.url as redis+cluster://" in problem for problem in alone.check())


def test_a_node_that_was_emptied_is_noticed_and_named_with_what_to_run(cluster: RealCluster, store: ClusterOnlineStore) -> None:
    rig = Rig(1, online=store, buckets=16)
    worker = rig.worker()
    worker.open()
    rig.produce(50)
    rig.drain(worker)
    emptied = cluster.owner(rig.keys.offset(RIDER.id, "trip", 0, rig.keys.buckets[rig.keys.number(RIDERS[0])]))
    documents = cluster.owner(rig.keys.meta("project"))
    kept = {} if emptied is not documents else {name: emptied.client.get(name) for name in emptied.client.keys("meta:*")}
    emptied.client.flushall()
    for name, value in kept.items():
        emptied.client.set(name, value)
    with pytest.raises(OffsetMissingError, match=r"bucket \d+/16 is not in the online store: .* `featureflow rebuild (rider|zone)_now`"):
        _go_on(rig, worker)


def _go_on(rig: Rig, worker: Worker) -> None:
    for _ in range(50):
        worker.step(timeout_s=0.0, wait=lambda seconds: None)
        rig.clock.advance(500_000)


def test_the_command_line_opens_a_cluster(cluster: RealCluster, tmp_path: Path) -> None:
    from featureflow.cli.context import Context

    (tmp_path / "featureflow.toml").write_text(f'[project]\nname = "mine"\n[online]\nurl = "{cluster.url}"\n')
    with Context(tmp_path, {}) as here:
        assert here.online.ping().endswith(" Cluster")
        assert isinstance(here.online, ClusterOnlineStore)
