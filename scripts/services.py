#!/usr/bin/env python3
"""Start, stop and show the three servers that FeatureFlow works with: Apache Kafka, Redis and MySQL.

    python3 scripts/services.py start | stop [--wipe] | status [--json]

With a working Docker (``docker info`` and ``docker compose version`` both succeed) they are the containers of
docker-compose.yml. Without one they run natively on Linux: Kafka from its published jars, Redis and MySQL from a Debian
tree that is unpacked into a cache once and never installed into this machine. Everything listens on 127.0.0.1 only.

Two runs stand side by side with different folders; port 0 takes a free one:

    --dir        FEATUREFLOW_SERVICES_DIR     data, logs, and which processes were started here   (.services)
    --cache      FEATUREFLOW_SERVICES_CACHE   downloads, shared by all runs                       (~/.cache/featureflow)
    --kafka-port FEATUREFLOW_KAFKA_PORT       (19092; Kafka's controller takes the next port)
    --redis-port FEATUREFLOW_REDIS_PORT       (16379)
    --mysql-port FEATUREFLOW_MYSQL_PORT       (13306)

With FEATUREFLOW_SERVICES_UNSYNCED=1 a native MySQL leaves to the system when its files come to the disk: what it has committed outlives
the server, not the machine. Nearly all that a small database waits for is the disk, so tests want it and benchmarks do not.

The MySQL account is featureflow / featureflow and may create databases: these are servers for trying and testing.
Python's standard library only, because it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from service_downloads import (
    KAFKA_VERSION,
    ServicesError,
    debian_tree,
    kafka_jars,
    only_one,
    run,
    say,
    succeeds,
    tail,
)
from service_probes import version

HERE = Path(__file__).resolve().parent
COMPOSE_FILE = HERE.parent / "docker-compose.yml"
PORTS = {"kafka": 19092, "redis": 16379, "mysql": 13306}
UNSYNCED = ("--innodb-flush-log-at-trx-commit=2", "--innodb-flush-method=nosync", "--innodb-doublewrite=OFF", "--skip-log-bin")
READY_S = 120.0
STOP_S = 30.0


# --- processes that were started here ---------------------------------------------------------------------------------


def started_at(pid: int) -> str | None:
    """The kernel's start time of a live process: with it a pid names one process for good. None when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


class Servers:
    """One run's folder: what was started, on which ports, as which processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "services.json"
        self.state: dict[str, dict[str, str | int | None]] = {}
        if self.file.exists():
            self.state = json.loads(self.file.read_text())

    def save(self) -> None:
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps(self.state, indent=1) + "\n")
        part.rename(self.file)

    def port(self, name: str) -> int:
        return int(self.state[name]["port"] or 0)

    def alive(self, name: str) -> bool:
        entry = self.state.get(name, {})
        return bool(entry.get("pid")) and started_at(int(entry["pid"] or 0)) == entry["started"]

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def spawn(self, name: str, version: str, port: int, command: Sequence[str]) -> None:
        with self.log(name).open("ab") as out:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self.folder, start_new_session=True
            )
        started = started_at(process.pid)
        self.state[name] = {"version": version, "port": port, "pid": process.pid, "started": started}
        self.save()

    def stop(self, name: str) -> None:
        if not self.alive(name):
            return
        pid = int(self.state[name]["pid"] or 0)
        os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + STOP_S
        while self.alive(name) and time.monotonic() < until:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            time.sleep(0.05)
        if self.alive(name):
            say(f"{name} did not stop within {STOP_S:.0f} s: killing it")
            os.kill(pid, signal.SIGKILL)


def wait_ready(servers: Servers, name: str) -> None:
    until = time.monotonic() + READY_S
    while version(name, servers.port(name)) is None:
        if not servers.alive(name) or time.monotonic() > until:
            raise ServicesError(f"{name} did not come up; the end of {servers.log(name)}:\n{tail(servers.log(name))}")
        time.sleep(0.1)


# --- native -----------------------------------------------------------------------------------------------------------


def start_kafka(servers: Servers, cache: Path, port: int) -> None:
    java = ["java", "-Xmx512m", "-Dlog4j2.level=WARN", "-cp", f"{kafka_jars(cache)}/*"]
    config, data = servers.folder / "kafka.properties", servers.folder / "kafka"
    config.write_text(
        f"""process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{port + 1}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{port + 1}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={data}
num.partitions=1
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=8
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
"""
    )
    if not (data / "meta.properties").exists():
        identity = subprocess.run([*java, "kafka.tools.StorageTool", "random-uuid"], capture_output=True, text=True)
        command = ["kafka.tools.StorageTool", "format", "--standalone", "-t", identity.stdout.strip(), "-c", str(config)]
        if not run([*java, *command], servers.log("kafka")):
            raise ServicesError(f"Kafka could not format {data}:\n{tail(servers.log('kafka'))}")
    servers.spawn("kafka", KAFKA_VERSION, port, [*java, "kafka.Kafka", str(config)])


def start_redis(servers: Servers, cache: Path, port: int) -> None:
    data = servers.folder / "redis"
    data.mkdir(exist_ok=True)
    options = {
        "bind": "127.0.0.1", "port": str(port), "dir": str(data), "databases": "1024", "maxmemory-policy": "noeviction",
        "appendonly": "yes", "appendfsync": "everysec", "save": "", "enable-debug-command": "local",
    }  # fmt: skip
    command = debian_tree(cache).command("usr/bin/redis-server")
    for name, value in options.items():
        command += [f"--{name}", value]
    servers.spawn("redis", "", port, command)


def start_mysql(servers: Servers, cache: Path, port: int) -> None:
    tree, data = debian_tree(cache), servers.folder / "mysql"
    command = [
        *tree.command("usr/sbin/mysqld"), "--no-defaults", f"--basedir={tree.root}/usr", f"--datadir={data}",
        f"--lc-messages-dir={tree.root}/usr/share/mysql",
    ]  # fmt: skip
    if os.geteuid() == 0:
        command.append("--user=root")
    if not (data / "mysql.ibd").exists():
        shutil.rmtree(data, ignore_errors=True)
        if not run([*command, "--initialize-insecure"], servers.log("mysql")):
            raise ServicesError(f"MySQL could not initialize {data}:\n{tail(servers.log('mysql'))}")
    accounts = servers.folder / "accounts.sql"
    accounts.write_text(
        "CREATE USER IF NOT EXISTS 'featureflow'@'%' IDENTIFIED BY 'featureflow';\n"
        "GRANT ALL ON *.* TO 'featureflow'@'%' WITH GRANT OPTION;\n"
    )
    # the socket's name is relative to the data folder, because a socket's path may have 107 bytes only
    command += [
        "--bind-address=127.0.0.1", f"--port={port}", "--socket=mysql.sock", "--mysqlx=OFF", "--local-infile=ON",
        "--secure-file-priv=NULL", "--pid-file=mysqld.pid", "--innodb-buffer-pool-size=256M", f"--init-file={accounts}",
        "--max-connections=400", *(UNSYNCED if os.environ.get("FEATUREFLOW_SERVICES_UNSYNCED") else ()),
    ]  # fmt: skip
    servers.spawn("mysql", "", port, command)


START = {"kafka": start_kafka, "redis": start_redis, "mysql": start_mysql}


def start_native(servers: Servers, cache: Path, ports: dict[str, int]) -> None:
    if not sys.platform.startswith("linux"):
        raise ServicesError("this is not Linux: install Docker with its compose plugin, and start again")
    with only_one(cache):
        kafka_jars(cache)
        debian_tree(cache)
    for name in START:
        if servers.alive(name):
            continue
        check_free(name, ports[name], 2 if name == "kafka" else 1)
        START[name](servers, cache, ports[name])
    for name in START:
        wait_ready(servers, name)


def check_free(name: str, port: int, count: int) -> None:
    for taken in range(port, port + count):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", taken)) == 0:
                raise ServicesError(
                    f"port {taken} is in use by something that was not started here.\n"
                    f"Set FEATUREFLOW_{name.upper()}_PORT (or --{name}-port) to another one; 0 takes a free one."
                )


def choose_ports(wanted: dict[str, int]) -> dict[str, int]:
    """The ports with a free one for every 0, and for Kafka's the next one free too."""
    chosen = dict(wanted)
    reserved = {number for port in wanted.values() for number in (port, port + 1)}
    for name, port in wanted.items():
        if not port:
            chosen[name] = free_pair(reserved)
            reserved |= {chosen[name], chosen[name] + 1}
    return chosen


def free_pair(reserved: set[int]) -> int:
    """The first of two free ports in a row, below the range that the system hands out by itself."""
    for port in range(20_000 + os.getpid() % 5_000, 32_000, 7):
        if reserved & {port, port + 1}:
            continue
        with contextlib.ExitStack() as stack:
            try:
                for number in (port, port + 1):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", number))
            except OSError:
                continue
            return port
    raise ServicesError("no free port between 20000 and 32000")


# --- docker compose ---------------------------------------------------------------------------------------------------


def compose(servers: Servers, ports: dict[str, int], *arguments: str) -> bool:
    project = "featureflow-" + "".join(c if c.isalnum() else "-" for c in str(servers.folder)).strip("-").lower()[-40:]
    numbers = {f"FEATUREFLOW_{name.upper()}_PORT": str(port) for name, port in ports.items()}
    command = ["env", *(f"{name}={value}" for name, value in numbers.items()), "docker", "compose"]
    return run([*command, "-p", project, "-f", str(COMPOSE_FILE), *arguments], servers.log("compose"))


def start_compose(servers: Servers, ports: dict[str, int]) -> None:
    for name, port in ports.items():
        if not servers.state:
            check_free(name, port, 1)
    servers.state = {name: {"version": "", "port": ports[name], "pid": None, "started": None} for name in ports}
    servers.state["kafka"]["version"] = KAFKA_VERSION
    servers.save()
    say("starting the containers of docker-compose.yml (the first time downloads their images)")
    if not compose(servers, ports, "up", "-d", "--wait", *PORTS):
        raise ServicesError(f"docker compose could not start the servers:\n{tail(servers.log('compose'))}")


# --- the three verbs --------------------------------------------------------------------------------------------------


def in_containers(servers: Servers, *, native: bool = False) -> bool:
    """Whether what runs (or else: what would be started) is containers."""
    if native:
        return False
    if servers.state:
        return servers.state["redis"]["pid"] is None if "redis" in servers.state else False
    return succeeds("docker", "compose", "version") and succeeds("docker", "info")


def start(servers: Servers, cache: Path, ports: dict[str, int], *, native: bool, as_json: bool) -> int:
    with only_one(servers.folder):
        servers = Servers(servers.folder)
        if in_containers(servers, native=native):
            start_compose(servers, {name: servers.port(name) for name in servers.state} or choose_ports(ports))
        else:
            start_native(servers, cache, choose_ports(ports))
    return status(servers, as_json=as_json)


def stop(servers: Servers, *, wipe: bool) -> int:
    with only_one(servers.folder):
        servers = Servers(servers.folder)
        if servers.state and in_containers(servers):
            ports = {name: servers.port(name) for name in servers.state}
            compose(servers, ports, "down", *(["--volumes"] if wipe else []))
        else:
            for name in servers.state:
                servers.stop(name)
        servers.file.unlink(missing_ok=True)
        if wipe:
            shutil.rmtree(servers.folder)
    return 0


def status(servers: Servers, *, as_json: bool) -> int:
    """One line a server; 0 when all three answer."""
    rows = []
    for name in PORTS:
        entry = servers.state.get(name)
        said = version(name, servers.port(name)) if entry else None
        up = said is not None
        known = entry or {"version": "", "port": None, "pid": None}
        text = (said or known["version"]) if up else ""
        rows.append({"name": name, "up": up, "version": text, "host": "127.0.0.1", "port": known["port"], "pid": known["pid"]})
    if as_json:
        print(json.dumps({"dir": str(servers.folder), "services": rows}))
    else:
        for row in rows:
            shown = f"{row['version']:<12} 127.0.0.1:{row['port']}" if row["up"] else "down (run: make services)"
            print(f"{row['name']:<6} {shown}")
    return 0 if all(row["up"] for row in rows) else 1


def main() -> int:
    environment = os.environ.get
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("start", "stop", "status"))
    parser.add_argument("--dir", default=environment("FEATUREFLOW_SERVICES_DIR", str(HERE.parent / ".services")))
    cache_home = environment("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    parser.add_argument("--cache", default=environment("FEATUREFLOW_SERVICES_CACHE", f"{cache_home}/featureflow"))
    for name, port in PORTS.items():
        value = environment(f"FEATUREFLOW_{name.upper()}_PORT", str(port))
        parser.add_argument(f"--{name}-port", type=int, default=value)
    parser.add_argument("--json", action="store_true", help="print one JSON line (start and status)")
    parser.add_argument("--native", action="store_true", help="start: processes also where Docker works, as faults need that kill them")
    parser.add_argument("--wipe", action="store_true", help="stop: remove the data too")
    chosen = parser.parse_args()
    servers = Servers(Path(chosen.dir).resolve())
    ports = {name: int(getattr(chosen, f"{name}_port")) for name in PORTS}
    try:
        if chosen.verb == "start":
            return start(servers, Path(chosen.cache).resolve(), ports, native=chosen.native, as_json=chosen.json)
        if chosen.verb == "stop":
            return stop(servers, wipe=chosen.wipe)
        return status(servers, as_json=chosen.json)
    except ServicesError as problem:
        say(f"services: {problem}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
