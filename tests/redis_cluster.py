"""A Redis Cluster of real processes: three primaries, a replica each. Its slots can be moved, and its primaries killed."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from ports import free_port
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from featureflow.store.online.embedded import server_binary

PRIMARIES = 3
QUICK_MS = 3_000                           # after which a node that does not answer is taken for dead, where one is to be
PATIENT_MS = 60_000                        # where none is to be, however slow the machine is
ANSWER_S = 60.0                            # for a node to answer
WAIT_S = 150.0
SLOTS = 16_384


class Node:
    """One server."""

    def __init__(self, folder: Path, timeout_ms: int) -> None:
        folder.mkdir(parents=True)
        self.folder, self.port, bus = folder, free_port(), free_port()
        self.command = [
            str(server_binary()), "--bind", "127.0.0.1", "--port", str(self.port), "--cluster-enabled", "yes",
            "--cluster-port", str(bus), "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", str(timeout_ms),
            "--cluster-require-full-coverage", "no", "--dir", str(folder), "--save", "", "--appendonly", "yes",
            "--appendfsync", "everysec", "--maxmemory-policy", "noeviction", "--logfile", str(folder / "server.log"),
        ]  # fmt: skip
        self.bus = bus
        self.process: subprocess.Popen[bytes] | None = None
        self.client: Any = redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0), socket_timeout=ANSWER_S)

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL)
        until(self._answers, f"{self.folder} answers")

    def kill(self) -> None:
        """SIGKILL: nothing is flushed and nobody is told."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process = None

    @property
    def id(self) -> str:
        return str(self.client.execute_command("CLUSTER", "MYID").decode())

    def info(self) -> dict[str, str]:
        text = self.client.execute_command("CLUSTER", "INFO")
        return text if isinstance(text, dict) else dict(line.split(":") for line in text.decode().split())

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False


class RealCluster:
    """``nodes``: the first three began as primaries, node i + 3 as the replica of node i."""

    def __init__(self, folder: Path, timeout_ms: int) -> None:
        self.nodes = [Node(folder / str(i), timeout_ms) for i in range(2 * PRIMARIES)]
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:PRIMARIES])

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        for i, node in enumerate(self.nodes[:PRIMARIES]):
            node.client.execute_command("CLUSTER", "ADDSLOTSRANGE", SLOTS * i // PRIMARIES, SLOTS * (i + 1) // PRIMARIES - 1)
            node.client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
        for node in self.nodes[1:]:
            self.nodes[0].client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, node.bus)
        until(lambda: all(node.info()["cluster_known_nodes"] == "6" for node in self.nodes), "all nodes know each other")
        for primary, replica in zip(self.nodes, self.nodes[PRIMARIES:], strict=False):
            replica.client.execute_command("CLUSTER", "REPLICATE", primary.id)
        until(self.well, "the cluster is well")

    def stop(self) -> None:
        for node in self.nodes:
            if node.process is not None:
                node.kill()
            node.client.close()

    def well(self) -> bool:
        """All slots are served, every primary has a replica that follows it, and all nodes tell the same of who is who."""
        try:
            if any(node.info()["cluster_state"] != "ok" for node in self.nodes if node.process):
                return False
            told = {tuple(sorted((line[0], *line[2:4]) for line in self._known(node))) for node in self.nodes if node.process}
            if len(told) > 1 or any("fail" in flags for _, flags, _ in told.pop()):
                return False
            roles = [node.client.info("replication") for node in self.nodes if node.process]
            return all(r["connected_slaves"] >= 1 if r["role"] == "master" else r["master_link_status"] == "up" for r in roles)
        except redis.RedisError:
            return False

    def empty(self) -> None:
        for node in self.primaries():
            node.client.flushall()

    def primaries(self) -> list[Node]:
        """Those that have slots, as they themselves say."""
        return [node for node in self.nodes if node.process and self.slots_of(node)]

    def owner(self, key: bytes) -> Node:
        return next(node for node in self.nodes if node.process and key_slot(key) in self.slots_of(node))

    def slots_of(self, node: Node) -> set[int]:
        mine = self._myself(node)
        slots: set[int] = set()
        if "master" not in mine[2]:
            return slots
        for part in mine[8:]:
            if not part.startswith("["):
                first, _, last = part.partition("-")
                slots |= set(range(int(first), int(last or first) + 1))
        return slots

    def _myself(self, node: Node) -> list[str]:
        mine = node.id
        return next(line for line in self._known(node) if line[0] == mine)

    @staticmethod
    def _known(node: Node) -> list[list[str]]:
        """What a node says of each that it knows: id, address, flags, ..."""
        connection = node.client.connection_pool.get_connection()
        try:
            connection.send_command("CLUSTER", "NODES")
            lines = connection.read_response().decode().splitlines()
        finally:
            node.client.connection_pool.release(connection)
        return [line.replace("myself,", "").split() for line in lines]

    # -- trouble -------------------------------------------------------------------------------------------------------

    def begin_move(self, slot: int) -> tuple[Node, Node]:
        """From its owner to the next primary; no key has moved yet."""
        primaries = self.primaries()
        source = next(node for node in primaries if slot in self.slots_of(node))
        target = primaries[(primaries.index(source) + 1) % len(primaries)]
        target.client.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.client.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        return source, target

    def move_keys(self, slot: int, source: Node, target: Node, most: int = 1_000_000) -> int:
        """Up to so many keys of the slot. How many went."""
        keys = source.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, most)
        if keys:
            source.client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, int(1000 * ANSWER_S), "KEYS", *keys)
        return len(keys)

    def end_move(self, slot: int, source: Node, target: Node) -> None:
        while self.move_keys(slot, source, target):
            pass
        for node in (target, source, *(node for node in self.primaries() if node not in (source, target))):
            node.client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", target.id)

    def move(self, slot: int) -> None:
        source, target = self.begin_move(slot)
        self.end_move(slot, source, target)

    def fail_over(self, dead: Node) -> None:
        """Kill a primary, and wait until its replica has its slots."""
        slots = self.slots_of(dead)
        dead.kill()
        until(lambda: any(slots <= self.slots_of(node) for node in self.nodes if node.process), "the replica is promoted")


def until(holds: Any, what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {WAIT_S} s: {what}")
        time.sleep(0.02)


@contextmanager
def running(folder: Path, timeout_ms: int) -> Iterator[RealCluster]:
    cluster = RealCluster(folder, timeout_ms)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
