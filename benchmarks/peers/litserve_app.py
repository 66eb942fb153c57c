"""The model of the scoring benchmark in LitServe, in an environment of its own.

    python litserve_app.py MODEL.onnx PORT
"""

import sys

import litserve
import numpy as np
import onnxruntime


class Odd(litserve.LitAPI):
    def setup(self, device):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
        self._name = self._session.get_inputs()[0].name

    def decode_request(self, request):
        return np.array(request["row"], np.float32)

    def batch(self, rows):
        return np.stack(rows)

    def predict(self, rows):
        return self._session.run(None, {self._name: rows})[0].ravel()

    def unbatch(self, scores):
        return list(scores)

    def encode_response(self, score):
        return {"score": float(score)}


if __name__ == "__main__":
    api = Odd(max_batch_size=64, batch_timeout=0.001, api_path="/")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), num_api_servers=1, log_level="error", access_log=False, generate_client_file=False)
