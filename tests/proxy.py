"""TCP proxies. One can take a server away: every connection is cut, and new ones are hung up on, until it is given back. The other cuts
a connection around one request."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Literal


class Proxy:
    """To one server, or, without one, an HTTP CONNECT proxy to whatever is asked for (Kafka's brokers name themselves)."""

    def __init__(self, server: tuple[str, int] | None = None) -> None:
        self._server = server
        self._away = threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.refused = 0                   # connections hung up on
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def take_away(self) -> None:
        self._away.set()
        with self._lock:
            for connection in self._open:
                _hang_up(connection)
            self._open.clear()

    def give_back(self) -> None:
        self._away.clear()

    def close(self) -> None:
        _hang_up(self._listener)
        self.take_away()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._away.is_set():
                self.refused += 1
                _hang_up(client)
            else:
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self._server or _asked_for(client))
        except (OSError, ValueError):
            _hang_up(client)
            return
        with self._lock:
            self._open |= {client, server}
        if self._away.is_set():            # taken away meanwhile
            self.take_away()
        if self._server is None:
            with contextlib.suppress(OSError):
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        back = threading.Thread(target=_pass_on, args=(server, client), daemon=True)
        back.start()
        _pass_on(client, server)
        back.join()
        with self._lock:
            self._open -= {client, server}
        for connection in (client, server):
            connection.close()


class Cutter:
    """Cuts a connection at a request that holds ``mark``: before the server hears of it, or before the client hears the answer.

        client ---- COMMIT ----x                       when = "before"
        client ---- COMMIT ----> server ---- OK ----x  when = "after"
    """

    def __init__(self, server: tuple[str, int], mark: bytes) -> None:
        self._server, self._mark = server, mark
        self.when: Literal["before", "after", "never"] = "never"
        self.cuts = 0
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        _hang_up(self._listener)
        for connection in self._open:
            _hang_up(connection)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._server)
            except OSError:
                _hang_up(client)
                continue
            self._open += [client, server]
            threading.Thread(target=self._serve, args=(client, server), daemon=True).start()

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        muted = threading.Event()
        answers = threading.Thread(target=self._answer, args=(client, server, muted), daemon=True)
        answers.start()
        with contextlib.suppress(OSError):
            while data := client.recv(65_536):
                if self.when != "never" and self._mark in data:
                    when, self.when = self.when, "never"
                    self.cuts += 1
                    if when == "after":
                        muted.set()
                        server.sendall(data)
                        answers.join()     # the answer came, and was swallowed
                    break
                server.sendall(data)
        for connection in (client, server):
            _hang_up(connection)

    @staticmethod
    def _answer(client: socket.socket, server: socket.socket, muted: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65_536):
                if muted.is_set():
                    return
                client.sendall(data)
        if not muted.is_set():
            _hang_up(client)               # the server has gone


def _asked_for(client: socket.socket) -> tuple[str, int]:
    """Of ``CONNECT host:port HTTP/1.1``."""
    head = b""
    while b"\r\n\r\n" not in head:
        more = client.recv(4096)
        if not more:
            raise ValueError("hung up")
        head += more
    host, _, port = head.split()[1].decode().rpartition(":")
    return host.strip("[]"), int(port)


def _pass_on(from_: socket.socket, to: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := from_.recv(65_536):
            to.sendall(data)
    for connection in (from_, to):
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def _hang_up(connection: socket.socket) -> None:
    """Also where another thread is waiting in recv or accept."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
