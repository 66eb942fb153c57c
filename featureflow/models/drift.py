"""The gate that a variant passes before it may answer in FP32's place."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featureflow.errors import DriftError, ModelError
from featureflow.models.manifest import Drift

CEILING = 0.1                              # no definition may allow more
LEAST_AGREEMENT = 0.9                      # where all scores are small, an absolute tolerance alone would admit a constant
Float64 = NDArray[np.float64]


def compare(reference: Float64, scores: Float64, labels: NDArray[np.bool_] | None = None) -> Drift:
    """float64 (n,) FP32's scores and a variant's for the same n >= 1 held-out rows; labels bool (n,) add the AUC."""
    difference = np.abs(scores - reference)
    spread = float(reference.var())
    squared = float(np.square(difference).mean())
    own = auc(labels, scores) if labels is not None else None
    theirs = auc(labels, reference) if labels is not None else None
    return Drift(
        max=float(difference.max()), mean=float(difference.mean()),
        agreement=1.0 - squared / spread if spread > 1e-12 else 1.0,
        auc=own, auc_loss=None if own is None or theirs is None else theirs - own,
    )


def check_tolerance(tolerance: float) -> None:
    """Raises ModelError unless 0 < tolerance <= CEILING."""
    if not 0 < tolerance <= CEILING:
        raise ModelError(f"the tolerance is {tolerance}; declare a drift above 0 and at most {CEILING}")


def gate(what: str, found: Drift, tolerance: float) -> None:
    """Raises DriftError naming ``what`` with its numbers unless it is within the tolerance. NaN is outside."""
    check_tolerance(tolerance)
    if not found.max <= tolerance:
        raise DriftError(
            f"{what} differs from FP32 by up to {found.max:.4f} (mean {found.mean:.4f}); {tolerance} is allowed. "
            "Calibrate on vectors like those it will see, add clip to the steps of inputs with long tails, or leave this variant out"
        )
    if not found.agreement >= LEAST_AGREEMENT:
        raise DriftError(
            f"{what} reproduces {max(found.agreement, 0.0):.0%} of the variation of FP32's scores, {LEAST_AGREEMENT:.0%} is the least: "
            f"its mean drift {found.mean:.4f} is within {tolerance}, but large beside these scores. "
            "Calibrate on vectors like those it will see, or leave this variant out"
        )


def auc(labels: NDArray[np.bool_], scores: Float64) -> float | None:
    """Area under the ROC curve by the Mann-Whitney statistic, ties counting half; None where one class is absent."""
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return None
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    return float((ranks[places][labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))
