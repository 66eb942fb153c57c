"""A TCP proxy that can take a server away: every connection is cut, and new ones are hung up on, until it is given back."""

from __future__ import annotations

import contextlib
import socket
import threading


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
