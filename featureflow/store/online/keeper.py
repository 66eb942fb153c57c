"""Run a server for as long as somebody uses it. A program of its own: ``python keeper.py USERS_FILE COMMAND...``

Everyone who uses the server holds a shared lock on USERS_FILE. The kernel drops a lock with its process, however that dies, so
the exclusive lock that this program waits for is granted exactly when the last user is gone. It then ends the server, and
keeps the lock until the server has exited: a newcomer waits for that instead of meeting a server on its way out.
"""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys


def main(users_file: str, command: list[str]) -> int:
    """The server's exit code, once it has ended."""
    with open(users_file, "rb") as users:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=False)  # it keeps the lock that we were given

        def ended(number: int, frame: object) -> None:
            if server.poll() is not None:
                sys.exit(server.returncode)

        signal.signal(signal.SIGCHLD, ended)
        ended(0, None)                     # it may have ended before the handler stood
        fcntl.flock(users, fcntl.LOCK_EX)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        server.terminate()
        return server.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
