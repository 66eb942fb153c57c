#!/usr/bin/env python3
"""Make the local Python environment (.venv) with FeatureFlow and what its tests and demo need; do nothing when it is up to date.

    python3 scripts/environment.py [--extra cpu|gpu]

Any Python from 3.11 on will do, this one or another on PATH. Downloads are tried again when they fail. The standard library
only, because it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "installed.sha256"
NEWEST_FIRST = ("python3.14", "python3.13", "python3.12", "python3.11", "python3")
GROUPS = ("test", "demo")
ATTEMPTS = 4


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def modern(python: str) -> bool:
    """Whether it runs and is at least 3.11."""
    question = "import sys; sys.exit(sys.version_info < (3, 11))"
    try:
        return subprocess.run([python, "-c", question], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def find_python() -> str:
    for name in (sys.executable, *NEWEST_FIRST):
        if (found := shutil.which(name)) and modern(found):
            return found
    raise SystemExit("environment: Python 3.11 or newer is needed, and none is on PATH. Install python3.11 (or newer) and try again.")


def attempt(*command: str, attempts: int = ATTEMPTS) -> bool:
    """Run, and again after 2, 4, ... seconds."""
    for number in range(1, attempts + 1):
        if subprocess.run(command, stdin=subprocess.DEVNULL).returncode == 0:
            return True
        if number < attempts:
            say(f"environment: {Path(command[0]).name} failed, trying again ({number} of {attempts - 1})")
            time.sleep(2**number)
    return False


def create(python: str) -> None:
    """Debian ships venv without pip in a package of its own: install it where we may, else say so."""
    made = subprocess.run([python, "-m", "venv", "--clear", str(VENV)], capture_output=True, text=True)
    if made.returncode == 0:
        return
    version = subprocess.run([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True)
    package = f"python{version.stdout.strip()}-venv"
    if shutil.which("apt-get") and os.geteuid() == 0:
        say(f"environment: installing {package}")
        attempt("apt-get", "update", "-q")
        attempt("apt-get", "install", "-y", "-q", "--no-install-recommends", package)
        made = subprocess.run([python, "-m", "venv", "--clear", str(VENV)], capture_output=True, text=True)
    if made.returncode != 0:
        raise SystemExit(f"environment: {python} -m venv failed; on Debian or Ubuntu install {package}.\n{made.stdout}{made.stderr}")


def requirements() -> list[str]:
    """The dependency groups of pyproject.toml, spelled out: pip learned --group late."""
    import tomllib  # Python 3.11; this part runs in the new environment

    with (ROOT / "pyproject.toml").open("rb") as file:
        groups = tomllib.load(file)["dependency-groups"]
    return [requirement for name in GROUPS for requirement in groups[name]]


def install(extra: str) -> None:
    """By uv, which is several times faster; by pip where uv cannot be had (pip has its own index settings, too).

    With bytecode, which pip makes by itself: a process that may not write any would compile every library at each start.
    """
    pip = (str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--quiet")
    wanted = ("--editable", f"{ROOT}[{extra},frames,otel,avro,protobuf,s3,vectors]", *requirements())
    say("environment: installing FeatureFlow and its dependencies into .venv (a minute or two, once)")
    if attempt(*pip, "install", "uv>=0.5", attempts=1):
        uv = (str(PYTHON), "-m", "uv", "pip", "install", "--quiet", "--python", str(PYTHON), "--link-mode", "copy", "--compile-bytecode")
        if attempt(*uv, *wanted, attempts=2):
            return
    if not attempt(*pip, "install", *wanted):
        raise SystemExit("environment: pip could not install everything; its own words stand above")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extra", choices=("cpu", "gpu"), default=os.environ.get("FEATUREFLOW_EXTRA", "cpu"))
    extra: str = parser.parse_args().extra
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + extra.encode()).hexdigest()
    if PYTHON.exists() and STAMP.exists() and STAMP.read_text() == wanted:
        return
    if not modern(str(PYTHON)):
        create(find_python())
    if not modern(sys.executable):         # go on in the environment, which is new enough to read pyproject.toml
        os.execv(PYTHON, [str(PYTHON), __file__, "--extra", extra])
    install(extra)
    STAMP.write_text(wanted)


if __name__ == "__main__":
    main()
