"""An environment of its own for each stream engine: what it needs is downloaded once, into the cache that the servers use too."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("FEATUREFLOW_SERVICES_CACHE", "~/.cache/featureflow")).expanduser() / "peers"
PACKAGES = {"bytewax": ("bytewax==0.21.1", "confluent-kafka>=2.6,<3"), "quix": ("quixstreams==3.28.1",)}
FLINK_VERSION = "2.2.0"


@dataclass(frozen=True)
class Command:
    """What runs an engine's job, but for the job's own arguments."""

    name: str
    version: str
    words: tuple[str, ...]


def python(name: str) -> Command:
    """An engine that is a Python package, and the job beside this file."""
    folder = CACHE / name
    interpreter = folder / "bin" / "python"
    if not (folder / "complete").exists():
        print(f"installing {' '.join(PACKAGES[name])}", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(interpreter), "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--retries", "10"]
        subprocess.run([*pip, *PACKAGES[name], "redis>=6.2,<9"], check=True)
        (folder / "complete").touch()
    return Command(name, PACKAGES[name][0].partition("==")[2], (str(interpreter), str(HERE / f"{name}_job.py")))


def flink() -> Command:
    """Flink from its published jars (194 MB), in one JVM."""
    folder = CACHE / f"flink-{FLINK_VERSION}"
    if not (folder / "complete").exists():
        for needed in ("mvn", "javac"):
            if shutil.which(needed) is None:
                raise SystemExit(f"Flink needs {needed}: apt-get install maven default-jdk-headless")
        print(f"downloading Flink {FLINK_VERSION}", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        shutil.copy(HERE / "flink" / "pom.xml", folder)
        subprocess.run(
            ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=libs"], cwd=folder, check=True
        )
        (folder / "complete").touch()
    source, classes = HERE / "flink" / "WindowJob.java", folder / "classes"
    subprocess.run(["javac", "-cp", f"{folder}/libs/*", "-d", str(classes), str(source)], check=True)
    opened = ("java.base/java.util=ALL-UNNAMED", "java.base/java.lang=ALL-UNNAMED", "java.base/java.time=ALL-UNNAMED")
    words = ("java", "-Xmx2g", *(word for name in opened for word in ("--add-opens", name)), "-cp", f"{classes}:{folder}/libs/*")
    return Command("flink", FLINK_VERSION, (*words, "WindowJob"))
