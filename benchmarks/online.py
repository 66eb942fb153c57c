"""``make bench-online``: fifteen features of one user and of a hundred over HTTP, no model.

    make bench-online PEERS=1        also Feast's feature server, on the same Redis: the values are compared first, one by one

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from load import Load, request_bytes, run
from noise import noise
from peers import environments
from peers.environments import NotInstalledError
from peers.serving import NotServingError, ask, cpu_s, running
from score import child, fold, free_port
from stream import Stream, body

from featureflow.cli.context import Context
from featureflow.log_lines import log_as_json
from featureflow.store.log.protocol import Record
from real_servers import Servers

HERE = Path(__file__).parent
DATABASE, PEER_DATABASE = 13, 12
EVENTS, USERS = 60_000, 2_000
ENTITIES = (1, 100)
BODIES, COMPARED = 500, 100
FEATURES = "/v1/features/user_now"
FEAST = "/get-online-features"
Figures = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each of the measured stretches")
    parser.add_argument("--rounds", type=int, default=3, help="times each, in both orders")
    parser.add_argument("--events", type=int, default=EVENTS, help="that are folded first")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--peers", default="", help="1: Feast too")
    arguments = parser.parse_args()
    log_as_json()
    servers = Servers.find(DATABASE)
    theirs = replace(servers, redis=f"{servers.redis.rpartition('/')[0]}/{PEER_DATABASE}")
    folder = Path(tempfile.mkdtemp(prefix="featureflow-bench-"))
    port = free_port()
    servers.empty()
    try:
        shutil.copy(HERE / "payments.py", folder / "features.py")
        (folder / "featureflow.toml").write_text(
            f'[project]\nname = "bench"\n[log]\nurl = "{servers.redis}"\n'
            f'[online]\nurl = "{servers.redis}"\nstale_after = "1d"\n[serve]\nport = {port}\n'
        )
        with Context(folder, {}) as here:
            here.registry.apply(here.written, partitions=1)
            payments = Stream.of(arguments.events, USERS)
            columns = zip(payments.users.tolist(), payments.at.tolist(), payments.cents.tolist(), strict=True)
            fold(here, here.applied.source("payment"), [
                Record(body(name := f"user-{user:07d}", user, at, cents), name.encode()) for user, at, cents in columns
            ])  # fmt: skip
        serve = [sys.executable, "-m", "featureflow.cli", "--project", str(folder), "serve"]
        with child(serve, "Scoring at") as scorer:
            before = noise()
            figures = _measured(theirs, folder, Asked(port, scorer.pid), arguments)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        servers.empty()
    print(json.dumps({**figures, "noise_before": before, "noise_after": noise(), "versions": servers.versions}))


@dataclass(frozen=True)
class Asked:
    """A server under load: its port, and the process whose processor time counts, with its children."""

    port: int
    pid: int


@dataclass(frozen=True)
class Stretch:
    load: Load
    cpu_us: float  # of the server's processes, a request


def _measured(theirs: Servers, folder: Path, scorer: Asked, arguments: argparse.Namespace) -> Figures:
    names, values = _kept(scorer.port)
    chance = np.random.default_rng(8)
    chosen = {n: [[f"user-{user:07d}" for user in chance.choice(USERS, n, replace=False)] for _ in range(BODIES)] for n in ENTITIES}
    ours = {n: [request_bytes(FEATURES, msgspec.json.encode({"entities": ids})) for ids in several] for n, several in chosen.items()}

    def stretch(requests: dict[int, list[bytes]], asked: Asked, n: int, seconds: float = arguments.seconds) -> Stretch:
        used_s = cpu_s(asked.pid)
        load = run(asked.port, requests[n], connections=arguments.connections, seconds=seconds)
        return Stretch(load, (cpu_s(asked.pid) - used_s) / load.requests * 1e6)

    found: Figures = {"features": len(names), "connections": arguments.connections}
    if not arguments.peers:
        for n in ENTITIES:
            stretch(ours, scorer, n, min(2.0, arguments.seconds))
            found |= _figures([stretch(ours, scorer, n) for _ in range(2 * arguments.rounds)], f"{n}_", "")
        return found
    peer_port = free_port()
    try:
        peer = environments.python("feast", "feast_app.py")
        theirs.empty()
        (folder / "values.json").write_text(json.dumps({"features": names, **values}))
        (folder / "feast").mkdir()
        place = theirs.redis.removeprefix("redis://").replace("/", ",db=")
        wanted = [f"user_now:{name}" for name in names]
        asked = {n: [{"features": wanted, "entities": {"user": ids}} for ids in several] for n, several in chosen.items()}
        other = {n: [request_bytes(FEAST, msgspec.json.encode(one)) for one in several] for n, several in asked.items()}
        command = [*peer.words, str(folder / "values.json"), place, str(folder / "feast"), str(peer_port)]
        with running(command, peer_port, FEAST, msgspec.json.encode(asked[1][0])) as pid:
            feast = Asked(peer_port, pid)
            compared = sum(_same(ask(peer_port, FEAST, msgspec.json.encode(one)), names, values) for one in asked[100][:COMPARED])
            for n in ENTITIES:
                sides: dict[str, list[Stretch]] = {"": [], "feast_": []}
                stretch(other, feast, n, min(2.0, arguments.seconds))
                stretch(ours, scorer, n, min(2.0, arguments.seconds))
                for _ in range(arguments.rounds):
                    for side in ("", "feast_", "feast_", ""):
                        sides[side].append(stretch(ours, scorer, n) if side == "" else stretch(other, feast, n))
                for side, several in sides.items():
                    found |= _figures(several, f"{n}_", side)
                found |= {
                    f"{n}_ratio_to_feast": round(found[f"{n}_req_s"] / found[f"{n}_feast_req_s"], 2),
                    f"{n}_p99_feast_over_ours": round(found[f"{n}_feast_p99_ms"] / found[f"{n}_p99_ms"], 2),
                }
                print(json.dumps(found), file=sys.stderr, flush=True)
        theirs.empty()
        return {
            **found, "ratio_to_feast": min(found[f"{n}_ratio_to_feast"] for n in ENTITIES),
            "p99_feast_over_ours": min(found[f"{n}_p99_feast_over_ours"] for n in ENTITIES),
            "compared_values": compared, "feast": peer.version,
        }  # fmt: skip
    except (NotInstalledError, NotServingError) as error:
        theirs.empty()
        return {**found, "feast_failed": f"{type(error).__name__}: {error}"}


def _kept(port: int) -> tuple[list[str], Figures]:
    """(feature names, every user's id and values) as FeatureFlow serves them now."""
    ids = [f"user-{user:07d}" for user in range(USERS)]
    rows, names = [], []
    for start in range(0, USERS, 1_000):
        wanted, until = msgspec.json.encode({"entities": ids[start : start + 1_000]}), time.monotonic() + 60
        while (answer := ask(port, FEATURES, wanted))["degraded"] and time.monotonic() < until:
            time.sleep(0.2)  # a busy machine
        if answer["degraded"]:
            raise SystemExit(f"not what is to be measured: {answer['degraded']}")
        names = answer["features"]
        rows += [row["values"] for row in answer["rows"]]
    return names, {"ids": ids, "rows": rows}


def _same(answer: Any, names: list[str], values: Figures) -> int:
    """How many values of Feast's answer were compared; every one must be what FeatureFlow served. Raises NotServingError."""
    columns = dict(zip(answer["metadata"]["feature_names"], answer["results"], strict=True))
    known = dict(zip(values["ids"], values["rows"], strict=True))
    rows = [known[user] for user in columns["user"]["values"]]
    for place, name in enumerate(names):
        expected = [row[place] for row in rows]
        if columns[name]["values"] != expected:
            raise NotServingError(f"its {name} is {columns[name]['values'][:3]}, not {expected[:3]}")
    return len(names) * len(rows)


def _figures(several: list[Stretch], entities: str, side: str) -> Figures:
    def middle(name: str) -> float:
        return float(np.median([getattr(one if hasattr(one, name) else one.load, name) for one in several]))

    return {
        f"{entities}{side}req_s": round(middle("req_s")), f"{entities}{side}p50_ms": round(middle("p50_ms"), 3),
        f"{entities}{side}p99_ms": round(middle("p99_ms"), 3), f"{entities}{side}cpu_us": round(middle("cpu_us"), 1),
        f"{entities}{side}not_ok": sum(one.load.not_ok for one in several),
    }  # fmt: skip


if __name__ == "__main__":
    main()
