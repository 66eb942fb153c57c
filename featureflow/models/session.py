"""One ONNX model that is ready to run: a float32 matrix in, one finite score per row out; or named tensors in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from featureflow.errors import ModelError
from featureflow.models.engine import Engine, engine, is_exhausted
from featureflow.models.manifest import Provider
from featureflow.models.prepared import Prepared
from featureflow.models.signature import Signature
from featureflow.models.tensors import Array

BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)   # batch sizes that are run before traffic; on a GPU the only ones


class Session:
    """The same on CPU and GPU. Safe for several threads, which run one after another (on CUDA: it has one stream).

    A batch beyond the largest bucket runs in parts. On a GPU a batch is padded up to its bucket, so that only warmed shapes run;
    on the CPU it runs as it is. Scores of a row may differ in the last bits between batch sizes: matrix products are blocked by size.
    """

    def __init__(
        self, content: bytes | Prepared, signature: Signature, columns: Sequence[str], provider: Provider, place: str,
        buckets: Sequence[int] = BUCKETS,
    ) -> None:
        """Creates and warms, the largest bucket first: what it allocates then serves the smaller ones.

        content: a file's bytes, or a graph that was optimized for the CPU already. columns: a name for each column of the matrix, for
        messages. place: what messages call this model. Where the GPU's memory is full, now or at a later run, it runs on the CPU, and
        ``degraded`` says so.
        Raises ModelError naming ``place`` when the model cannot run on ``provider`` or takes another width.
        """
        self.provider: Provider = provider
        self.degraded: str | None = None   # why it runs on the CPU and not where it was to
        self.bytes = content.bytes if isinstance(content, Prepared) else len(content)   # what it takes to run comes on top
        self._lock = Lock()                # an engine's buffers are one run's; a model and an ensemble that it is a member of share it
        self.asked = False                 # whether it ran since the pool last looked
        self.dropped = False               # whether the pool let go of it
        self.signature = signature
        self._columns, self._buckets = tuple(columns), tuple(buckets)
        self.width = width = len(self._columns)
        self._place = place
        if signature.width not in (None, width):
            raise ModelError(
                f"{place} takes {signature.width} columns, and is given {width}: {_few(self._columns)}. Train it on the inputs of the "
                "definition, as featureflow dataset writes them, and add it with the transforms that it was trained with"
            )
        self._content = content.path if isinstance(content, Prepared) else content
        self._engine = self._made()
        if provider == "cpu":
            self._content = b""            # kept only to go on on the CPU
        for batch in reversed(self._buckets):
            self._run(np.zeros((batch, width), np.float32))

    def run(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """float32 (n, width), finite, C-contiguous -> float64 (n,).

        Raises ModelError for another shape or dtype, naming the row and column of a value that is not finite, and for a score that is not.
        """
        self.asked = True
        with self._lock:
            return self._scores(matrix)

    def _scores(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
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

    def infer(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Tensors by name, each (n, ...) of the file's own type -> everything that the file gives, by name, each (n, ...).

        Raises ModelError naming the tensor for one that is absent or unknown, of another type, shape or number of rows, or with a value
        that is not finite, on the way in and out.
        """
        self.asked = True
        with self._lock:
            return self._inferred(tensors)

    def _inferred(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        takes = self._engine.takes
        if tensors.keys() != takes.keys():
            raise ModelError(f"{self._place} got the tensors {', '.join(sorted(tensors)) or 'none'}; it takes {', '.join(takes)}")
        rows = {len(value) if value.ndim else 0 for value in tensors.values()}
        for name, value in tensors.items():
            kind, shape = takes[name]
            if value.dtype != kind or value.ndim != len(shape) or any(
                s not in (None, v) for s, v in zip(shape[1:], value.shape[1:], strict=True)
            ):
                raise ModelError(f"{self._place} got {value.dtype} {value.shape} for {name}; it takes {kind} {_text(shape)}")
            self._check_finite(name, value, "got", "give finite values")
        if len(rows) != 1:
            raise ModelError(f"{self._place} got tensors of {' and '.join(map(str, sorted(rows)))} rows; give each row in every tensor")
        (count,), most = rows, self._buckets[-1]
        if not count:
            raise ModelError(f"{self._place} got tensors of no rows; give at least one")
        parts = [
            self._all({name: np.ascontiguousarray(value[at:at + most]) for name, value in tensors.items()}, min(most, count - at))
            for at in range(0, count, most)
        ]
        found = parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for name, value in found.items():
            self._check_finite(name, value, "gave", "its weights overflow on these inputs; retrain it")
        return found

    def _check_finite(self, name: str, value: Array, verb: str, advice: str) -> None:
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            row = np.argwhere(~np.isfinite(value))[0][0]
            raise ModelError(f"{self._place} {verb} a value that is not finite in row {row} of {name}; {advice}")

    def _made(self) -> Engine:
        try:
            return engine(self._content, self.provider)
        except ModelError:
            raise
        except Exception as error:         # ONNX Runtime has a dozen exception types without a base of their own
            if self._degrade(error):
                return self._engine
            raise ModelError(f"{self._place} does not run on {self.provider}: {error}") from error

    def _degrade(self, error: Exception) -> bool:
        """Go on on the CPU where a GPU's memory is full. A model that is slow answers still; one that fails does not."""
        if self.provider == "cpu" or not is_exhausted(error):
            return False
        self.degraded = f"cpu: {self.provider} has no memory left for it ({str(error).strip().splitlines()[0]})"
        self.provider = "cpu"
        self._engine = self._made()
        return True

    def _run(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        rows, signature = len(matrix), self.signature
        padded = np.asarray(_padded(matrix, self._bucket(rows)), np.float32) if self._engine.pads else matrix
        feeds = signature.feeds(padded)
        try:
            result = np.asarray(self._engine.run(signature.output, feeds))
        except Exception as error:         # see _made
            if self._degrade(error):
                return self._run(matrix)
            raise ModelError(f"{self._place} failed on a batch of {rows} rows: {error}") from error
        if signature.column is not None:
            result = result[:, signature.column]
        if result.size != len(padded):
            raise ModelError(f"{self._place} gave {result.shape} for {len(padded)} rows; a score is one value per row")
        return result.reshape(-1)[:rows].astype(np.float64)

    def _all(self, tensors: dict[str, Array], rows: int) -> dict[str, Array]:
        bucket = self._bucket(rows) if self._engine.pads else rows
        try:
            found = self._engine.run_all({name: _padded(value, bucket) for name, value in tensors.items()})
        except Exception as error:         # see _made
            if self._degrade(error):
                return self._all(tensors, rows)
            raise ModelError(f"{self._place} failed on a batch of {rows} rows: {error}") from error
        for name, value in found.items():
            shape: object = getattr(value, "shape", type(value).__name__)          # of a sequence or map its type
            if not isinstance(shape, tuple) or value.dtype == object or shape[:1] != (bucket,):
                raise ModelError(f"{self._place} gave {shape} for {name} of {rows} rows; an output has numbers of each row")
        return {name: value[:rows] for name, value in found.items()}

    def _bucket(self, rows: int) -> int:
        return next(b for b in self._buckets if b >= rows)


def _padded(value: Array, rows: int) -> Array:
    """With rows of zeros behind it."""
    if len(value) == rows:
        return value
    padded = np.zeros((rows, *value.shape[1:]), value.dtype)
    padded[:len(value)] = value
    return padded


def _text(shape: Sequence[int | None]) -> str:
    return f"({', '.join(['rows', *('any' if d is None else str(d) for d in shape[1:])])})"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{names[0]} to {names[-1]}"
