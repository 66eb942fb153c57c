"""What the processes of a project saw of a release, put together: as if one process had seen it all. Pure.

Each says what it counted of every arm within the window, and a sample of the scores. All samples together are as large as the one that a
process keeps for itself, however many there are. A score weighs as many as its process gave for each that it named: else a process with
few requests would count as much as one with many, in the arm whose sample is cut and not in the other, and two places with different
callers would be taken for two distributions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from featureflow.models.verdict import SCORES, Seen

LEAST_SCORES = 32  # of an arm that a process names, by however many there are


class _Said(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    rows: int
    failed: int
    runs: int
    slow: int
    scores: bytes  # float32, little-endian: models compute no finer ones


_DECODER = msgspec.msgpack.Decoder(dict[str, _Said])


def said(seen: Mapping[str, Seen], members: int) -> bytes:
    """What one of so many processes has to say. ``seen``: by arm's name."""
    most = max(LEAST_SCORES, SCORES // max(1, members))
    return msgspec.msgpack.encode({name: _sampled(one, most) for name, one in seen.items()})


def heard(document: bytes) -> dict[str, Seen] | None:
    """What a process has said; None where it is of another version of FeatureFlow."""
    try:
        return {name: _seen(one) for name, one in _DECODER.decode(document).items()}
    except ValueError:  # msgspec's are too
        return None


def pooled(members: Sequence[Mapping[str, Seen]]) -> dict[str, Seen]:
    """What all have seen, by the names of the arms that the first one has."""
    return {name: _sum([member[name] for member in members if name in member]) for name in members[0]}


def _sampled(seen: Seen, most: int) -> _Said:
    scores = seen.scores
    if len(scores) > most:  # from all of them, not the newest
        scores = scores[np.linspace(0, len(scores) - 1, most).astype(np.intp)]
    with np.errstate(over="ignore"):  # an infinity is in its place too
        return _Said(seen.rows, seen.failed, seen.runs, seen.slow, scores.astype("<f4").tobytes())


def _seen(one: _Said) -> Seen:
    """Raises ValueError."""
    scores = np.frombuffer(one.scores, "<f4").astype(np.float64)
    good = one.rows - one.failed
    if min(one.failed, good - len(scores), one.slow, one.runs - one.slow) < 0:
        raise ValueError("more rows failed, inferences were slow or scores were given than there were")
    return Seen(one.rows, one.failed, one.runs, one.slow, scores, np.full(len(scores), good / max(1, len(scores))))


def _sum(seen: Sequence[Seen]) -> Seen:
    return Seen(
        sum(one.rows for one in seen),
        sum(one.failed for one in seen),
        sum(one.runs for one in seen),
        sum(one.slow for one in seen),
        np.concatenate([one.scores for one in seen]),
        np.concatenate([np.ones(len(one.scores)) if one.weights is None else one.weights for one in seen]),
    )
