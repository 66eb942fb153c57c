"""A logistic regression in plain numpy: from a training set that is what would have been served, to a model in the store.

featureflow dataset fraud spine.csv dataset.csv --label label --delay 1s
python train.py
featureflow model add fraud fraud.onnx --transforms transforms.json --dataset dataset.csv
featureflow model quantize fraud
"""

import csv
from pathlib import Path

import msgspec
import numpy as np

from featureflow.define.project import load
from featureflow.models.export import export_mlp
from featureflow.models.manifest import inputs_of
from featureflow.models.transform import Steps, fit

try:
    with open("dataset.csv", newline="") as file:
        rows = list(csv.DictReader(file))
except FileNotFoundError:
    command = "featureflow dataset fraud spine.csv dataset.csv --label label --delay 1s"
    raise SystemExit(f"there is no dataset.csv here. Run: {command}") from None
inputs = inputs_of(load(Path("features.py")).model("fraud"))
names = [i.name if i.size == 1 else f"{i.name}[{n}]" for i in inputs for n in range(i.size)]
matrix = np.array([[float(row[name] or "nan") for name in names] for row in rows])
labels = np.array([float(row["label"]) for row in rows])

train = np.arange(len(rows)) < 0.75 * len(rows)  # the oldest rows; the others test
transforms = fit(matrix[train], inputs, otherwise=Steps(impute=0.0, clip=(0.001, 0.999), log1p=True))
x = transforms.apply(matrix).astype(np.float64)

weights, bias = np.zeros(x.shape[1]), 0.0
for _ in range(2_000):  # gradient descent on the cross entropy
    wrong = 1 / (1 + np.exp(-(x[train] @ weights + bias))) - labels[train]
    weights -= 0.3 * (x[train].T @ wrong / len(wrong) + 1e-3 * weights)
    bias -= 0.3 * wrong.mean()

scores = x[~train] @ weights + bias
late, early = scores[labels[~train] > 0], scores[labels[~train] == 0]
print(f"AUC on the newest quarter: {(late[:, None] > early).mean():.3f}")
export_mlp([weights[:, None]], [np.array([bias])], Path("fraud.onnx"))
Path("transforms.json").write_bytes(msgspec.json.encode(transforms))
print("fraud.onnx and transforms.json are written")
