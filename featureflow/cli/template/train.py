"""A logistic regression in plain numpy, from a training set that is what would have been served, to a model in the store.

    featureflow dataset fraud spine.csv dataset.csv --label label --delay 1s
    python train.py
    featureflow model add fraud fraud.onnx --dataset dataset.csv
"""

import csv
from pathlib import Path

import numpy as np

from featureflow.models.export import export_mlp
