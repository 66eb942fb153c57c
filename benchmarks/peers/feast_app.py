"""Fifteen features in Feast's feature server, on Redis, in an environment of its own.

    python feast_app.py VALUES.json REDIS_HOST:PORT,db=N FOLDER PORT

VALUES.json: {"ids": [...], "features": [...], "rows": [[float or null, ...], ...]}, one row per id, written to the online store first.
"""

import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float64

SETTINGS = """\
project: bench
provider: local
registry: {{path: {folder}/registry.db, cache_ttl_seconds: 3600}}
online_store: {{type: redis, connection_string: "{redis}"}}
offline_store: {{type: file}}
entity_key_serialization_version: 3
"""
# as its documentation says for production, but for one process, as the other side has; a worker that ends after 1,000 requests, as it
# does by default, is another's start in the middle of what is measured
SERVE = ("--host", "127.0.0.1", "--workers", "1", "--worker-connections", "1000", "--max-requests", "0", "--max-requests-jitter", "0",
         "--registry_ttl_sec", "3600", "--keep-alive-timeout", "75", "--no-access-log")


def prepare(values, redis, folder):
    (folder / "feature_store.yaml").write_text(SETTINGS.format(folder=folder, redis=redis))
    store = FeatureStore(str(folder))
    user = Entity(name="user", join_keys=["user"], value_type=ValueType.STRING)
    nowhere = FileSource(name="nowhere", path=str(folder / "nowhere.parquet"), timestamp_field="at")
    frame = pd.DataFrame(values["rows"], columns=values["features"], dtype="float64")
    frame.insert(0, "user", values["ids"])
    frame["at"] = datetime.now(UTC)
    frame.to_parquet(folder / "nowhere.parquet")
    schema = [Field(name=name, dtype=Float64) for name in values["features"]]
    view = FeatureView(name="user_now", entities=[user], ttl=timedelta(0), schema=schema, source=nowhere, online=True)
    store.apply([user, view])
    store.write_to_online_store("user_now", frame)


if __name__ == "__main__":
    values, redis, folder, port = sys.argv[1:]
    os.environ["FEAST_USAGE"] = "False"
    prepare(json.loads(Path(values).read_text()), redis, Path(folder))
    feast = str(Path(sys.executable).parent / "feast")
    os.execv(feast, [feast, "--chdir", folder, "serve", "--port", port, *SERVE])
