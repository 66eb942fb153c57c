"""The model of the scoring benchmark in Ray Serve, in an environment of its own.

    python ray_app.py MODEL.onnx PORT

As its performance guide says: HAProxy before the replica, the flags for throughput, one replica, no access log.
"""

import os
import sys

os.environ.update(
    RAY_SERVE_ENABLE_HA_PROXY="1", RAY_SERVE_THROUGHPUT_OPTIMIZED="1", RAY_SERVE_LOG_TO_STDERR="0", RAY_USAGE_STATS_ENABLED="0"
)

import json
import signal
import threading

import numpy as np
import onnxruntime
import ray
from ray import serve
from ray.serve.schema import LoggingConfig
from starlette.responses import JSONResponse


@serve.deployment(
    num_replicas=1, max_ongoing_requests=1_000, ray_actor_options={"num_cpus": 1}, logging_config=LoggingConfig(enable_access_log=False)
)
class Odd:
    def __init__(self, model):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._name = self._session.get_inputs()[0].name

    async def __call__(self, request):
        row = np.array([json.loads(await request.body())["row"]], np.float32)
        return JSONResponse({"score": float(self._session.run(None, {self._name: row})[0].ravel()[0])})


if __name__ == "__main__":
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[2])})
    serve.run(Odd.bind(sys.argv[1]), route_prefix="/")
    print("serving", flush=True)
    ended.wait()
    serve.shutdown()
    ray.shutdown()
