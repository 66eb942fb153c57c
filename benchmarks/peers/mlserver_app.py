"""The model of the scoring benchmark in MLServer, in an environment of its own.

    python mlserver_app.py MODEL.onnx PORT

The Open Inference Protocol; the model in the server's own process, where there is no queue between them.
"""

import asyncio
import socket
import sys

import numpy as np
import onnxruntime
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceResponse
from mlserver.utils import install_uvloop_event_loop


class Odd(MLModel):
    async def load(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(self.settings.parameters.uri, options, providers=["CPUExecutionProvider"])
        self._tensor = self._session.get_inputs()[0].name
        return True

    async def predict(self, payload):
        rows = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32, copy=False)
        scores = self._session.run(None, {self._tensor: rows})[0].reshape(-1, 1)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("score", scores)])


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


async def main():
    settings = Settings(
        host="127.0.0.1", http_port=int(sys.argv[2]), grpc_port=free_port(), metrics_endpoint=None, parallel_workers=0, debug=False,
        load_models_at_startup=False,
    )
    model = ModelSettings(name="odd", implementation=Odd, parameters=ModelParameters(uri=sys.argv[1]))
    await MLServer(settings).start([model])


if __name__ == "__main__":
    install_uvloop_event_loop()            # as its command does
    asyncio.run(main())
