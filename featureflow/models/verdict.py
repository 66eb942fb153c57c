"""When a candidate must go. Pure: what was seen goes in, with the time; out comes why, or None.

Each process judges what it saw itself, and what all have seen together (see ``models.pooled``). A bound counts as left only
where chance does not explain it, with a probability of error of ``CHANCE`` at each look: one failed request of a hundred ends
nobody, and a candidate that fails at every second one is gone within ``least_rows``. Where the stable version does as badly, the
cause is not the candidate.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import NDArray

from featureflow.models.release import Bounds, Release
from featureflow.store.mirror import Accuracy

CHANCE = 1e-4
Z = NormalDist().inv_cdf(1 - CHANCE)
KS = math.sqrt(-math.log(CHANCE / 2) / 2)  # Smirnov's c(CHANCE), of the two-sample test
TAIL = 0.01                                # a latency bound is one of the 99th percentile
PARTS = 60                                 # of the window: what is older than it goes in such steps
SCORES = 2_000                             # kept of each arm
Weights = NDArray[np.float64] | None


class Seen(msgspec.Struct, frozen=True):
    """Of one arm within the window. ``slow``: inferences beyond the bound. ``weights`` float64 (n,): how many scores each of ``scores``
    (n,) stands for; None: one each."""

    rows: int
    failed: int
    runs: int
    slow: int
    scores: NDArray[np.float64]
    weights: Weights = None


class Verdict(msgspec.Struct, frozen=True):
    """This release's candidates have ended. ``reason`` names the arm, the bound and what was seen."""

    model: str
    number: int
    reason: str
    at_us: int


def read_verdict(document: bytes | None) -> Verdict | None:
    """None where none was put there, or another version of FeatureFlow put it: who reads it says so itself where it sees the same."""
    try:
        return None if document is None else msgspec.json.decode(document, type=Verdict)
    except msgspec.MsgspecError:
        return None


class Tally:
    """What an arm did lately. Written by one thread; ``at_us`` comes from outside and does not go back."""

    def __init__(self, bounds: Bounds) -> None:
        self._slow_s = math.inf if bounds.latency_us is None else bounds.latency_us / 1e6
        self._part_us = max(1, bounds.window_us // PARTS)
        self._parts: deque[list[int]] = deque()          # [number of the part, rows, failed, runs, slow]
        self._scores: deque[tuple[int, NDArray[np.float64]]] = deque()
        self._kept = 0

    def add(self, at_us: int, *, rows: int, failed: int, seconds: float, scores: NDArray[np.float64]) -> None:
        """One inference: its rows, how many of them have no score, how long it took, and the scores float64 (n,) of the others."""
        number = at_us // self._part_us
        if not self._parts or self._parts[-1][0] < number:
            self._parts.append([number, 0, 0, 0, 0])
            self._forget(number)
        part = self._parts[-1]
        part[1] += rows
        part[2] += failed
        part[3] += 1
        part[4] += seconds > self._slow_s
        if len(scores):
            self._scores.append((number, scores[:SCORES]))
            self._kept += len(self._scores[-1][1])
            while self._kept - len(self._scores[0][1]) >= SCORES:
                self._kept -= len(self._scores.popleft()[1])

    def seen(self, now_us: int) -> Seen:
        """All of the window that ends at ``now_us``."""
        self._forget(now_us // self._part_us)
        sums = [sum(part[i] for part in self._parts) for i in range(1, 5)]
        scores = np.concatenate([kept for _, kept in self._scores]) if self._scores else np.empty(0)
        return Seen(sums[0], sums[1], sums[2], sums[3], scores)

    def _forget(self, number: int) -> None:
        while self._parts and self._parts[0][0] <= number - PARTS:
            self._parts.popleft()
        while self._scores and self._scores[0][0] <= number - PARTS:
            self._kept -= len(self._scores.popleft()[1])


def judge(release: Release, seen: Mapping[str, Seen], accuracy: Mapping[str, Accuracy]) -> str | None:
    """Why the release's candidates must end; None while nothing speaks against them.

    seen: by arm's name. accuracy: by version.
    """
    stable = seen[release.stable.name]
    for arm in release.candidates:
        own = seen[arm.name]
        found = (
            _errors(own, stable, release.bounds)
            or _latency(own, stable, release.bounds)
            or _drift(own, stable, release.bounds)
            or _live(accuracy.get(arm.version), accuracy.get(release.stable.version), release)
        )
        if found is not None:
            return f"{arm.name} ({release.model}@{arm.version}): {found}"
    return None


def _errors(own: Seen, stable: Seen, bounds: Bounds) -> str | None:
    if bounds.errors is None or own.rows < bounds.least_rows:
        return None
    low, _ = wilson(own.failed, own.rows)
    _, high = wilson(stable.failed, stable.rows)
    if low <= bounds.errors or (stable.failed and low <= high):
        return None
    return f"{own.failed:,} of {own.rows:,} rows have no score, {bounds.errors:.2%} are allowed"


def _latency(own: Seen, stable: Seen, bounds: Bounds) -> str | None:
    if bounds.latency_us is None or own.rows < bounds.least_rows:
        return None
    low, _ = wilson(own.slow, own.runs)
    _, high = wilson(stable.slow, stable.runs)
    if low <= TAIL or (stable.slow and low <= high):
        return None
    return f"{own.slow:,} of {own.runs:,} inferences took longer than {bounds.latency_us / 1e3:g} ms, 1 of 100 may"


def _drift(own: Seen, stable: Seen, bounds: Bounds) -> str | None:
    if bounds.score_drift is None or min(len(own.scores), len(stable.scores)) < bounds.least_rows:
        return None
    far = distance(own.scores, stable.scores, own.weights, stable.weights)
    by_chance = KS * math.sqrt(1 / _size(own) + 1 / _size(stable))
    if far - by_chance <= bounds.score_drift:
        return None
    return f"its scores are distributed otherwise than stable's: distance {far:.3f}, {bounds.score_drift:g} is allowed"


def _live(own: Accuracy | None, stable: Accuracy | None, release: Release) -> str | None:
    bounds = release.bounds
    if own is None or stable is None or min(own.labels, stable.labels) < bounds.least_labels or own.until_us < release.made_at_us:
        return None
    if bounds.auc_loss is not None and own.auc is not None and stable.auc is not None:
        by_chance = Z * math.hypot(auc_error(own), auc_error(stable)) + (own.auc_error or 0.0) + (stable.auc_error or 0.0)
        if stable.auc - own.auc - by_chance > bounds.auc_loss:
            return f"its live AUC is {own.auc:.4f}, stable's {stable.auc:.4f}, a loss of {bounds.auc_loss:g} is allowed"
    if bounds.calibration_loss is not None and own.calibration_error is not None and stable.calibration_error is not None:
        by_chance = Z * math.hypot(0.5 / math.sqrt(own.labels), 0.5 / math.sqrt(stable.labels))   # of a share, at most
        if own.calibration_error - stable.calibration_error - by_chance > bounds.calibration_loss:
            return (
                f"its live calibration error is {own.calibration_error:.4f}, stable's {stable.calibration_error:.4f}, "
                f"{bounds.calibration_loss:g} more is allowed"
            )
    return None


def wilson(hits: int, of: int) -> tuple[float, float]:
    """Between which shares the true one is, each side but for ``CHANCE`` (Wilson's score interval, 1927); (0, 1) of nothing."""
    if not of:
        return 0.0, 1.0
    share, square = hits / of, Z * Z
    middle = (share + square / (2 * of)) / (1 + square / of)
    half = Z * math.sqrt(share * (1 - share) / of + square / (4 * of * of)) / (1 + square / of)
    return max(0.0, middle - half), min(1.0, middle + half)


def distance(a: NDArray[np.float64], b: NDArray[np.float64], weights_a: Weights = None, weights_b: Weights = None) -> float:
    """The largest difference of two samples' empirical distribution functions, float64 (n,) and (m,): Kolmogorov and Smirnov's D.

    The weights are of one sample each; None: all the same.
    """
    at = np.concatenate((a, b))
    return float(np.abs(_below(a, weights_a, at) - _below(b, weights_b, at)).max())


def _below(sample: NDArray[np.float64], weights: Weights, at: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of the sample that is not above each of ``at``."""
    order = np.argsort(sample)
    places = np.searchsorted(sample[order], at, "right")
    if weights is None:
        return places / len(sample)
    sums: NDArray[np.float64] = np.concatenate(([0.0], np.cumsum(weights[order]))) / weights.sum()
    return sums[places]


def _size(seen: Seen) -> float:
    """How many scores that count alike say as much (Kish's effective sample size)."""
    if seen.weights is None:
        return len(seen.scores)
    return float(seen.weights.sum() ** 2 / (seen.weights**2).sum())


def auc_error(seen: Accuracy) -> float:
    """The standard error of an AUC over so many labels of that base rate (Hanley and McNeil, 1982)."""
    auc = 0.5 if seen.auc is None else seen.auc
    positive = max(1.0, seen.labels * (0.5 if seen.base_rate is None else seen.base_rate))
    negative = max(1.0, seen.labels - positive)
    q1, q2 = auc / (2 - auc), 2 * auc * auc / (1 + auc)
    variance = auc * (1 - auc) + (positive - 1) * (q1 - auc * auc) + (negative - 1) * (q2 - auc * auc)
    return math.sqrt(max(0.0, variance) / (positive * negative))
