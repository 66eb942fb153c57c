"""JSON over one keep-alive connection to the scorer on this machine. Standard library only."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any

IDLE_S = 30.0


class Scorer:
    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._used = 0.0
        self.url = f"http://127.0.0.1:{port}"

    def post(self, path: str, body: object) -> Any:
        return self._call("POST", path, json.dumps(body).encode())

    def get(self, path: str) -> Any:
        return self._call("GET", path, None)

    def _call(self, method: str, path: str, body: bytes | None) -> Any:
        if time.monotonic() - self._used > IDLE_S:
            self._connection.close()  # the server may have closed it meanwhile, and a POST must not be sent twice
        self._used = time.monotonic()
        for last in (False, True):
            try:
                self._connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
                answer = self._connection.getresponse()
                text = answer.read()
                break
            except (http.client.HTTPException, ConnectionError):
                self._connection.close()  # a kept connection may have been closed meanwhile
                if last or method == "POST":
                    raise
        if answer.status != 200:
            raise RuntimeError(f"{method} {path} answered {answer.status}: {text[:500].decode(errors='replace')}")
        return json.loads(text)

    def wait_ready(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while True:
            try:
                if self.get("/readyz")["ready"]:
                    return
            except (OSError, RuntimeError) as error:
                if time.monotonic() > until:
                    raise SystemExit(f"the scorer at {self.url} is not ready after {seconds:.0f} s: {error}") from error
            time.sleep(0.2)
