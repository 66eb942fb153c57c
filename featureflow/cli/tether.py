"""A child that ends when its parent is gone, however that died.

The parent holds the only writing end of the pipe that is the child's standard input, and writes nothing. The kernel closes it
with the parent, so the child reads the end of its input and does what SIGTERM would have it do: finish what is in hand. A child of the
child is tethered to that one, and so on down.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence

TETHERED = "FEATUREFLOW_TETHERED"  # set in the environment of such a child


def start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """In a session of its own: a Ctrl-C reaches the parent only, which then ends its children in order."""
    return subprocess.Popen(command, env={**environment, TETHERED: "1"}, stdin=subprocess.PIPE, start_new_session=True)


def let_go(ended: subprocess.Popen[bytes]) -> None:
    """Close the pipe of a child that has ended."""
    assert ended.stdin is not None
    ended.stdin.close()


def hold(environment: Mapping[str, str]) -> None:
    """In the child: from now on. Nothing where no parent asked for it."""
    if environment.get(TETHERED) == "1":
        threading.Thread(target=_wait, name="tether", daemon=True).start()


def _wait() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
