"""The gate that a variant passes before it may answer in FP32's place."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featureflow.errors import DriftError, ModelError
from featureflow.models.manifest import Drift

CEILING = 0.1                              # no definition may allow more
LEAST_AGREEMENT = 0.9                      # where all scores are small, an absolute tolerance alone would admit a constant
LEAST_RANK = 0.9                           # of the order of the scores, which is all that a ranking uses of them
Float64 = NDArray[np.float64]


def compare(
    reference: Float64, scores: Float64, labels: NDArray[np.bool_] | None = None, *, resolution: float = 1e-4
) -> Drift:
    """float64 (n,) FP32's scores and a variant's for the same n >= 1 held-out rows; labels bool (n,) add the AUC.

    resolution: scores this close count as one rank, so that rows which FP32 itself hardly tells apart do not decide the correlation.
    """
    difference = np.abs(scores - reference)
    spread = float(reference.var())
    squared = float(np.square(difference).mean())
    own = auc(labels, scores) if labels is not None else None
    theirs = auc(labels, reference) if labels is not None else None
    return Drift(
        max=float(difference.max()), mean=float(difference.mean()),
        agreement=1.0 - squared / spread if spread > 1e-12 else 1.0, rank=rank_correlation(reference, scores, resolution),
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
            "Calibrate on rows like those it will see (--dataset, --logged), or add clip to the steps of inputs with long tails; "
            "the version goes on as it was"
        )
    if not found.agreement >= LEAST_AGREEMENT:
        raise DriftError(
            f"{what} reproduces {max(found.agreement, 0.0):.0%} of the variation of FP32's scores, {LEAST_AGREEMENT:.0%} is the least: "
            f"its mean drift {found.mean:.4f} is within {tolerance}, but large beside these scores. "
            "Calibrate on rows like those it will see (--dataset, --logged); the version goes on as it was"
        )
    if found.rank is not None and not found.rank >= LEAST_RANK:
        raise DriftError(
            f"{what} puts rows in another order than FP32: the rank correlation is {found.rank:.3f}, {LEAST_RANK} is the least. "
            "Calibrate on rows like those it will see (--dataset, --logged); the version goes on as it was"
        )
    if found.auc_loss is not None and not found.auc_loss <= tolerance:
        raise DriftError(
            f"{what} has an AUC of {found.auc:.4f}, {found.auc_loss:.4f} below FP32's; {tolerance} is allowed. "
            "Calibrate on rows like those it will see (--dataset, --logged); the version goes on as it was"
        )


def auc(labels: NDArray[np.bool_], scores: Float64) -> float | None:
    """Area under the ROC curve by the Mann-Whitney statistic, ties counting half; None where one class is absent."""
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return None
    ranks = _ranks(scores)
    if ranks is None:
        return None
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def rank_correlation(reference: Float64, scores: Float64, resolution: float) -> float | None:
    """Spearman's: the correlation of the ranks, of equal ones their mean; None where either side has one rank only, or a NaN."""
    first, second = (_ranks(np.round(values / resolution)) for values in (reference, scores))
    if first is None or second is None or first.min() == first.max() or second.min() == second.max():
        return None
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: Float64) -> Float64 | None:
    if np.isnan(values).any():
        return None
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    middles: Float64 = np.cumsum(counts) - (counts - 1) / 2
    return middles[places]
