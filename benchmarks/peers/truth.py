"""What the windows of the engines must hold, by numpy."""

from __future__ import annotations

from typing import cast

import numpy as np
import redis

MINUTE_US = 60_000_000
NOBODY = 9_999_999  # the user of the last event, which closes every window
TUMBLING, HOPPING = "tumbling", "hopping"
VALUE = np.dtype([("count", "<f8"), ("sum", "<f8"), ("min", "<f8"), ("max", "<f8")])


def windows(window: str, users: np.ndarray, at_us: np.ndarray, cents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(keys (k, 2): user and start in minutes, in order; values (k,) of ``VALUE``), of every window that holds an event."""
    minute = at_us // MINUTE_US
    if window == HOPPING:                  # a window begins at each of the last ten minutes
        users, cents = np.repeat(users, 10), np.repeat(cents, 10)
        minute = (minute[:, np.newaxis] - np.arange(10)).ravel()
    order = np.lexsort((minute, users))
    keys = np.stack((users[order], minute[order]), axis=1)
    first = np.flatnonzero(np.concatenate(([True], (keys[1:] != keys[:-1]).any(axis=1))))
    amounts = cents[order]
    values = np.empty(len(first), VALUE)
    values["count"] = np.diff(np.append(first, len(keys)))
    values["sum"] = np.add.reduceat(amounts, first) / 100
    values["min"], values["max"] = np.minimum.reduceat(amounts, first) / 100, np.maximum.reduceat(amounts, first) / 100
    return keys[first], values


def wrong(client: redis.Redis, keys: np.ndarray, values: np.ndarray) -> tuple[int, int]:
    """(windows that the engine left wrong or out, windows that should not be there). A sum may differ by its order of addition."""
    expected = {(int(user), int(start)): value for (user, start), value in zip(keys.tolist(), values, strict=True)}
    differing = extra = 0
    for name in client.scan_iter("peer:user-*", 10_000):
        user = int(name.rpartition(b"-")[2])
        if user == NOBODY:
            continue
        for field, packed in cast(dict[bytes, bytes], client.hgetall(name)).items():
            got, value = np.frombuffer(packed, VALUE)[0], expected.pop((user, int(field) // 60), None)
            if value is None:
                extra += 1
            else:
                same = all(got[part] == value[part] for part in ("count", "min", "max"))
                differing += not (same and bool(np.isclose(got["sum"], value["sum"], rtol=1e-12)))
    return differing + len(expected), extra
