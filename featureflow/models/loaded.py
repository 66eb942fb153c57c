"""A model that answers: its transforms, its session, and what an answer must say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featureflow.errors import ModelError
from featureflow.models.manifest import Manifest, Probe, Provider, Variant
from featureflow.models.session import Session

TRIED = 10                                 # rows that a new model is tried on
EXACT = 1e-3                               # what FP32 itself may differ by between machines: products are summed in another order


@dataclass(frozen=True)
class LoadedModel:
    """Safe for several threads. ``chosen`` says why this variant was, ``stamp`` tells two loads of one version apart."""

    manifest: Manifest
    variant: Variant
    chosen: str
    session: Session
    stamp: str                             # SHA-256 of the manifest's file: another one after ``quantize``

    @property
    def provider(self) -> Provider:
        """Where it runs: on the CPU after a GPU had no memory left."""
        return self.session.provider

    @property
    def reason(self) -> str:
        """Why this variant answers, and why there."""
        return self.chosen if self.session.degraded is None else f"{self.chosen}; {self.session.degraded}"

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> str:
        return self.manifest.version

    def score(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """float64 (n, manifest.width), in the manifest's input order -> float64 (n,).

        An undefined value (NaN) is what the transforms make of it. Raises ModelError naming row and input for a value that stays
        undefined or infinite, for another width, and for a score that is not finite.
        """
        return self.session.run(self.manifest.transforms.apply(inputs))

    def run(self, tensors: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        """The file's own tensors in, all that it gives out, by name: each (n, ...) of the type that the file declares.

        No transforms and no definition stand between. Raises ModelError naming the tensor that is absent, unknown or of another type
        or shape, and for values that are not finite on either side.
        """
        return self.session.infer(tensors)


def probe_problem(session: Session, probe: Probe, variant: Variant) -> str | None:
    """Why this session must not answer: its scores of the manifest's probe rows are too far from what FP32 said of them; else None."""
    expected = np.array(probe.scores, np.float64)
    allowed = EXACT if variant == "fp32" else probe.tolerance
    try:
        found = session.run(np.array(probe.rows, np.float32).reshape(len(expected), -1))
    except ModelError as error:
        return str(error)
    furthest = float(np.abs(found - expected).max(initial=0.0))
    return None if furthest <= allowed else f"its scores of the probe rows differ from FP32's by {furthest:.4f}, {allowed} is allowed"


def trial_problem(session: Session, rows: NDArray[np.float32] | None = None) -> str | None:
    """Why a model must not be added: it has no finite score, or a row's score is not that row's alone; else None.

    rows: what it is to take, float32 (n, width); drawn where there are none. Scorers put the rows of several callers into one batch.
    """
    if rows is None:
        rows = session.signature.drawn(TRIED, session.width)
    alone, good = [], []
    for row in rows[:TRIED]:
        try:
            alone.append(session.run(row[None])[0])
        except ModelError as error:
            last = str(error)
        else:
            good.append(row)
    if not good:
        return f"has no finite score for any of {len(rows[:TRIED])} rows, so for none at all as it seems: {last}"
    batch = np.stack(good)
    first, second = session.run(batch), session.run(batch)
    if (first != second).any():
        return "gives other scores each time for the same rows; export it for inference, without dropout"
    if (np.abs(first - alone) > EXACT * np.maximum(1.0, np.abs(alone))).any():
        return "scores a row by the other rows of its batch too; export it for inference, with each row by itself"
    return None
