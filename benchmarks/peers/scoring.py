"""The model of the scoring benchmark in other servers, each in an environment of its own, asked by as many connections.

They get the numbers that the model takes, ready, and answer one score; FeatureFlow reads three views, derives, transforms, runs the same
file, logs and answers. Their scores are compared with FeatureFlow's before any is timed.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from load import Load, request_bytes, run
from peers import environments
from peers.serving import NotServingError, ask, running

from featureflow.models.manifest import Manifest

COMPARED, TOLERANCE = 300, 1e-5        # the same file, rows in batches of another size: the last bits may differ
Figures = dict[str, Any]


@dataclass(frozen=True)
class Peer:
    """How a server is asked for the score of one row, and where in its answer that stands."""

    program: str
    path: str
    body: Callable[[list[float]], object]
    score: Callable[[Any], float]


PEERS = {
    "ray": Peer("ray_app.py", "/", lambda row: {"row": row}, lambda answer: answer["score"]),
    "litserve": Peer("litserve_app.py", "/", lambda row: {"row": row}, lambda answer: answer["score"]),
    "mlserver": Peer(
        "mlserver_app.py", "/v2/models/odd/infer",
        lambda row: {"inputs": [{"name": "row", "shape": [1, len(row)], "datatype": "FP32", "data": row}]},
        lambda answer: answer["outputs"][0]["data"][0],
    ),
    "bentoml": Peer("bentoml_app.py", "/score", lambda row: {"rows": [row]}, lambda answer: answer[0][0]),
}  # fmt: skip


@dataclass(frozen=True)
class Questions:
    """What FeatureFlow answered: float32 (n, width) as the model takes them, and the n scores."""

    rows: np.ndarray
    scores: np.ndarray

    @staticmethod
    def asked(port: int, bodies: list[bytes], manifest: Manifest) -> Questions:
        """The first bodies, explained: the model's inputs worked out here from the features that are in the answer."""
        raw, scores = [], []
        for body in bodies[:COMPARED]:
            answer = ask(port, "/v1/score/odd", body[:-1] + b',"explain":true}')
            features = {name: _number(value["value"]) for name, value in answer["features"][0].items()}
            amount = msgspec.json.decode(body)["context"]["amount"]
            compared = amount / features["user_now:usual_1h"]
            own = {"amount": amount, "compared": 1.0 if np.isnan(compared) else compared}
            raw.append([{**features, **own}[column.name] for column in manifest.inputs])
            scores.append(answer["scores"][0])
        return Questions(manifest.transforms.apply(np.array(raw, np.float64)), np.array(scores))


def rows(
    names: list[str], port: int, requests: list[bytes], questions: Questions, model: Path, *, connections: int, seconds: float, rounds: int
) -> list[Figures]:
    """One for each: its figures, FeatureFlow's (at ``port``) in turns with it, and how many times its rate that is; or why there are
    none."""
    found = []
    for name in names:
        try:
            figures = _measured(name, port, requests, questions, model, connections, seconds, rounds)
        except Exception as error:         # whatever it is, the others are measured
            figures = {"failed": f"{type(error).__name__}: {error}"}
        found.append({"row": name, "version": environments.version(name), **figures})
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    return found


def best(found: list[Figures]) -> Figures:
    """The fastest of them, and how many times its rate FeatureFlow's is; nothing where none ran."""
    ran = [row for row in found if "failed" not in row]
    if not ran:
        return {}
    fastest = max(ran, key=lambda row: float(row["req_s"]))
    return {"best_peer": fastest["row"], "ratio_to_best_peer": fastest["ratio"]}


def _measured(
    name: str, port: int, requests: list[bytes], questions: Questions, model: Path, connections: int, seconds: float, rounds: int
) -> Figures:
    peer, own = PEERS[name], _free_port()
    bodies = [msgspec.json.encode(peer.body(row)) for row in questions.rows.tolist()]
    command = environments.python(name, peer.program)
    with running([*command.words, str(model), str(own)], own, peer.path, bodies[0]):
        scores = np.array([peer.score(ask(own, peer.path, body)) for body in bodies])
        differs = float(np.abs(scores - questions.scores).max())
        if not differs <= TOLERANCE:
            raise NotServingError(f"its scores differ by {differs}")
        theirs = [request_bytes(peer.path, body) for body in bodies]
        run(own, theirs, connections=connections, seconds=min(2.0, seconds))
        loads: dict[str, list[Load]] = {"ours": [], "theirs": []}
        for _ in range(rounds):
            for side in ("ours", "theirs", "theirs", "ours"):
                asked, at = (requests, port) if side == "ours" else (theirs, own)
                loads[side].append(run(at, asked, connections=connections, seconds=seconds))
    ours, other = loads["ours"], loads["theirs"]
    return {
        "compared": len(bodies), "max_difference": differs,
        "req_s": round(_middle(other, "req_s")), "p50_ms": round(_middle(other, "p50_ms"), 3), "p99_ms": round(_middle(other, "p99_ms"), 3),
        "not_ok": sum(load.not_ok for load in other),
        "ours_req_s": round(_middle(ours, "req_s")), "ours_p50_ms": round(_middle(ours, "p50_ms"), 3),
        "ours_p99_ms": round(_middle(ours, "p99_ms"), 3), "ratio": round(_middle(ours, "req_s") / _middle(other, "req_s"), 2),
    }  # fmt: skip


def _middle(loads: list[Load], name: str) -> float:
    return float(np.median([getattr(load, name) for load in loads]))


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
