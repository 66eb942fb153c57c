"""Damage that the check must notice: one bit of one entity's state, in the store behind everybody's back."""

from __future__ import annotations

from pathlib import Path

import redis

from featureflow.define.project import load
from featureflow.kernel.columns import FIRST, Layout
from featureflow.store.keys import Keys

COLUMN_BYTES = 8
BUSY = "JFK"  # has flights in every hour; all three origins are always checked


def flip_one_bit(folder: Path, partitions: int) -> str:
    """Flip the lowest bit of the first partial of the newest row of one origin. The key."""
    project = load(folder / "features.py")
    view, source = project.view("origin_now"), project.source("departure")
    layout = Layout.of(view, source)
    with redis.Redis(unix_socket_path=str(folder / ".featureflow" / "server" / "server.sock")) as store:
        names = Keys(project.name)
        keys = [names.state(view.entity, BUSY, view.id, source.name, partition) for partition in range(partitions)]
        key = max(keys, key=store.strlen)
        at = store.strlen(key) - layout.row_bytes + COLUMN_BYTES * FIRST
        byte = store.getrange(key, at, at)
        store.setrange(key, at, bytes([byte[0] ^ 1]))
    return key.decode()
