"""The model of the scoring benchmark in BentoML, in an environment of its own.

    python bentoml_app.py MODEL.onnx PORT

One worker; requests that arrive together are one batch.
"""

import os
import sys
from pathlib import Path

import bentoml
import numpy as np
import onnxruntime


@bentoml.service(
    workers=1, traffic={"timeout": 30, "max_concurrency": 1_000}, logging={"access": {"enabled": False}}, metrics={"enabled": False}
)
class Odd:
    def __init__(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(os.environ["ODD_MODEL"], options, providers=["CPUExecutionProvider"])
        self._name = self._session.get_inputs()[0].name

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1_000, route="/score")
    def score(self, rows: np.ndarray) -> np.ndarray:
        return self._session.run(None, {self._name: rows.astype(np.float32, copy=False)})[0].reshape(-1, 1)


if __name__ == "__main__":
    here = Path(__file__)
    os.environ.update(ODD_MODEL=sys.argv[1], BENTOML_DO_NOT_TRACK="true")
    serve = [sys.executable, "-m", "bentoml", "serve", f"{here.stem}:Odd", "--host", "127.0.0.1", "--port", sys.argv[2]]
    os.execv(sys.executable, [*serve, "--working-dir", str(here.parent)])
