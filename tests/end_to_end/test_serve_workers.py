"""Several scorers behind one port: one process tree, which is told to end as one."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from world import embedded, until


def test_scorers_that_share_a_port_drain_at_the_same_time_and_end_with_0_within_ten_seconds(tmp_path: Path) -> None:
    with embedded(tmp_path / "project") as world, contextlib.ExitStack() as held:
        world.featureflow("apply")
        server, _ = world.serve(FEATUREFLOW_SERVE_WORKERS="2")
        until(lambda: server.err().count('"event":"serving"') == 2, "both scorers")
        workers = [pid for pid in server.children() if b"featureflow.cli" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert len(workers) == 1
        for _ in range(12):                # requests without an end, so that each scorer takes all the time it has to drain
            request = held.enter_context(socket.create_connection(("127.0.0.1", world.serve_port)))
            request.sendall(b"POST /v1/events/ride HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
        assert server.told_to_end() == 0, server.said()[-2000:]
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
