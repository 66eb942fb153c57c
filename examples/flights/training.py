"""From a training set to a plain ONNX file: a scikit-learn MLP 256-128, and what it is worth."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from sklearn.neural_network import MLPClassifier

from featureflow.models.export import export_mlp

Matrix = NDArray[np.float32]
EPOCHS = 6


@dataclass(frozen=True)
class Trained:
    network: MLPClassifier
    auc: float

    def export(self, path: Path) -> None:
        export_mlp(self.network.coefs_, self.network.intercepts_, path)


def fit(
    train: Matrix, train_labels: NDArray[np.bool_], test: Matrix, test_labels: NDArray[np.bool_], seed: int = 0
) -> Trained:
    """Inputs as the fitted transforms give them: imputed, scaled, float32 (n, width)."""
    network = MLPClassifier(
        (256, 128), alpha=1e-2, batch_size=1024, learning_rate_init=1e-3, max_iter=EPOCHS, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a fixed number of epochs is the plan
        network.fit(train, train_labels)
    return Trained(network, auc(test_labels, network.predict_proba(test)[:, 1]))


def auc(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    return float(roc_auc_score(labels, scores))
