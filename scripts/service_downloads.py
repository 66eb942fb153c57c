"""What the servers need where there is no Docker: Kafka's jars, and Redis and MySQL in an unpacked Debian tree."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

KAFKA_VERSION = "4.1.0"
ATTEMPTS = 3


class ServicesError(Exception):
    """Printed without a traceback: it says what to do."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def run(command: Sequence[str], log: Path, *, attempts: int = 1, cwd: Path | None = None) -> bool:
    """Run with the output in ``log``; try again after 2, 4, ... seconds. False when every attempt failed."""
    for attempt in range(1, attempts + 1):
        with log.open("ab") as out:
            out.write(f"$ {' '.join(command)}\n".encode())
            out.flush()
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=cwd, env=environment)
        if done.returncode == 0:
            return True
        if attempt < attempts:
            say(f"  {command[0]} failed ({done.returncode}), trying again; its output is in {log}")
            time.sleep(2**attempt)
    return False


def tail(path: Path, lines: int = 15) -> str:
    text = path.read_text(errors="replace") if path.exists() else ""
    return "\n".join("    " + line for line in text.splitlines()[-lines:])


def need(programs: dict[str, str], log: Path) -> None:
    """Have each program on PATH, installing its Debian package where we are root on Debian or Ubuntu."""
    missing = {program: package for program, package in programs.items() if not shutil.which(program)}
    if not missing:
        return
    packages = sorted(set(" ".join(missing.values()).split()))
    wanted = f"{', '.join(missing)} (Debian packages: {' '.join(packages)})"
    if not shutil.which("apt-get"):
        raise ServicesError(
            f"without Docker this needs {wanted}, and this is not a Debian system.\n"
            "Install Docker with its compose plugin, or point FeatureFlow at servers that you run yourself."
        )
    if os.geteuid() != 0:
        raise ServicesError(
            f"without Docker this needs {wanted}, and only root may install them.\n"
            f"Run: sudo apt-get install {' '.join(packages)}   (or install Docker with its compose plugin)"
        )
    say(f"installing {' '.join(packages)}")
    if not run(["apt-get", "update", "-q"], log, attempts=ATTEMPTS) or not run(
        ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages], log, attempts=ATTEMPTS
    ):
        raise ServicesError(f"apt-get could not install {' '.join(packages)}:\n{tail(log)}")


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, so that two runs do not fill one cache (or start one set of servers) at once."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>featureflow</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.24.3</version>
    </dependency>
  </dependencies>
</project>
"""


def kafka_jars(cache: Path) -> Path:
    """The folder of Kafka's jars; 43 MB the first time."""
    done, log = cache / f"kafka-{KAFKA_VERSION}", cache / "download.log"
    need({"java": "default-jre-headless"}, log)
    if not done.exists():
        need({"mvn": "maven"}, log)
        say(f"downloading Kafka {KAFKA_VERSION} (43 MB, once)")
        work = cache / "kafka.part"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        (work / "pom.xml").write_text(POM)
        command = ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=libs"]
        if not run(command, log, attempts=ATTEMPTS, cwd=work):
            raise ServicesError(f"Maven could not download Kafka {KAFKA_VERSION}:\n{tail(log)}")
        work.rename(done)
    return done / "libs"


class DebianTree:
    """An unpacked Debian with mysqld and redis-server in it; its programs run through its own loader, not this machine's."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def command(self, program: str) -> list[str]:
        loaders = [*self.root.glob("usr/lib*/ld-linux-*.so.*"), *self.root.glob("usr/lib/*-linux-gnu*/ld-linux-*.so.*")]
        libraries = ":".join(map(str, self.root.glob("usr/lib/*-linux-gnu*")))
        if not loaders:
            raise ServicesError(f"{self.root} is incomplete: remove it and start again")
        return [str(loaders[0]), "--library-path", libraries, str(self.root / program)]

    def version(self, program: str) -> str:
        """The program's own version line, or '' when it does not run."""
        try:
            done = subprocess.run([*self.command(program), "--version"], capture_output=True, text=True, timeout=60)
        except (ServicesError, OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    def complete(self) -> bool:
        return bool(self.version("usr/sbin/mysqld") and self.version("usr/bin/redis-server"))


def debian_tree(cache: Path) -> DebianTree:
    """Redis 8 and MySQL 9 from Debian's development branch; 1 GB on disk and about a minute the first time."""
    done, work, log = cache / "debian-sid", cache / "debian-sid.part", cache / "download.log"
    if not done.exists():
        if os.geteuid() != 0:
            raise ServicesError(
                "without Docker, Redis and MySQL are unpacked by debootstrap, which only root may run (once).\n"
                f"Run: sudo {sys.executable} scripts/services.py start --cache {cache}   "
                "(or install Docker with its compose plugin)"
            )
        need({"debootstrap": "debootstrap debian-archive-keyring"}, log)
        say("downloading Redis and MySQL (a Debian tree of 1 GB, about a minute, once)")
        command = ["debootstrap", "--variant=minbase", "--include=mysql-server,redis-server", "sid", str(work)]
        for _ in range(ATTEMPTS):
            shutil.rmtree(work, ignore_errors=True)
            # the packages' own start scripts may fail in a bare tree: what counts is that the programs run
            run(command, log)
            if DebianTree(work).complete():
                break
        else:
            raise ServicesError(f"debootstrap could not unpack mysql-server and redis-server:\n{tail(log)}")
        shutil.rmtree(work / "var/cache/apt/archives", ignore_errors=True)
        work.rename(done)
    return DebianTree(done)
