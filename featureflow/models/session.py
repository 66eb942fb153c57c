"""One ONNX model that is ready to run: a float32 matrix in, one finite score per row out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from featureflow.errors import ModelError
from featureflow.models import provider as execution
from featureflow.models.manifest import Provider
from featureflow.models.onnx_file import Signature

BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)   # batch sizes that are run before traffic; on CUDA the only ones


class Session:
    """The same on CPU and GPU. Belongs to one thread at a time (on CUDA: one stream).

    A batch beyond the largest bucket runs in parts. On CUDA a batch is padded up to its bucket, so that only warmed shapes run;
    on the CPU it runs as it is. Scores of a row may differ in the last bits between batch sizes: matrix products are blocked by size.
    """

    def __init__(
        self, content: bytes, signature: Signature, columns: Sequence[str], provider: Provider, place: str, buckets: Sequence[int] = BUCKETS
    ) -> None:
        """Creates and warms.

        columns: a name for each column of the matrix, for messages. place: what messages call this model.
        Raises ModelError naming ``place`` when the model cannot run on ``provider`` or takes another width.
        """
        self.provider: Provider = provider
        self.bytes = len(content)          # of the model; what it takes to run it comes on top
        self.asked = False                 # whether it ran since the pool last looked
        self.dropped = False               # whether the pool let go of it
        self._columns, self._buckets = tuple(columns), tuple(buckets)
        self.width = width = len(self._columns)
        self._place = place
        self._tensor, self._outputs = signature.tensor, [signature.output]
        if signature.width not in (None, width):
            raise ModelError(
                f"{place} takes {signature.width} columns but its transforms give {width}; fit the transforms that it was trained with"
            )
        try:
            self._session = execution.session(content, provider)
            for batch in self._buckets:
                self._run(np.zeros((batch, width), np.float32))
        except ModelError:
            raise
        except Exception as error:         # ONNX Runtime has a dozen exception types without a base of their own
            raise ModelError(f"{place} does not run on {provider}: {error}") from error

    def run(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """float32 (n, width), finite, C-contiguous -> float64 (n,).

        Raises ModelError for another shape or dtype, naming the row and column of a value that is not finite, and for a score that is not.
        """
        self.asked = True
        if matrix.ndim != 2 or matrix.shape[1] != self.width or matrix.dtype != np.float32:
            raise ModelError(f"{self._place} got {matrix.dtype} {matrix.shape}; it takes float32 (rows, {self.width})")
        if not np.isfinite(matrix).all():
            row, column = np.argwhere(~np.isfinite(matrix))[0]
            raise ModelError(
                f"{self._place} got {matrix[row, column]} for input {self._columns[column]} in row {row}; "
                "give the input a default or an impute step, and values that fit float32"
            )
        rows, most = len(matrix), self._buckets[-1]
        if not rows:
            return np.empty(0)
        parts = [self._run(matrix[at:at + most]) for at in range(0, rows, most)]
        scores = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if not np.isfinite(scores).all():
            row = int(np.flatnonzero(~np.isfinite(scores))[0])
            raise ModelError(f"{self._place} gave {scores[row]} for row {row}: its weights overflow on these inputs; retrain it")
        return scores

    def _run(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        rows = len(matrix)
        if self.provider == "cuda":
            bucket = next(b for b in self._buckets if b >= rows)
            if bucket != rows:
                padded = np.zeros((bucket, self.width), np.float32)
                padded[:rows] = matrix
                matrix = padded
        try:
            result = np.asarray(self._session.run(self._outputs, {self._tensor: matrix})[0])
        except Exception as error:         # see __init__
            raise ModelError(f"{self._place} failed on a batch of {rows} rows: {error}") from error
        if result.size != len(matrix):
            raise ModelError(f"{self._place} gave {result.shape} for {len(matrix)} rows; a score is one value per row")
        return result.reshape(-1)[:rows].astype(np.float64)
