"""Named tensors: what an ONNX file takes and gives, and which columns of a model's matrix become which tensor.

A definition that names no tensors has one: its inputs side by side, (batch, width). Where it names them, each is made of inputs:

    single values             (batch, d)          side by side
    sequences of n values     (batch, n, d)       newest first, of each value d numbers side by side
    one input                 in any shape that has as many numbers: an image (channels, height, width) row by row

All are cut from one matrix (n, width), so that scoring, transforms, calibration and probes are the same for every model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from featureflow.errors import ModelError

Kind = Literal["float32", "float64", "float16", "int64", "int32", "uint8", "int8", "bool"]
Array = NDArray[np.generic]
FLOATS: tuple[Kind, ...] = ("float32", "float64", "float16")
WHOLE = 2.0**24                            # beyond it float32, which the matrix is of, leaves whole numbers out
LEAST_MOST = {"int64": (-WHOLE, WHOLE), "int32": (-WHOLE, WHOLE), "uint8": (0.0, 255.0), "int8": (-128.0, 127.0), "bool": (0.0, 1.0)}


class ModelTensor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tensor of the file, and the definition's inputs that it is made of (none: an output, or the one matrix)."""

    name: str
    kind: Kind
    shape: tuple[int | None, ...]          # of one row; None: any
    inputs: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """``history: float32 (batch, 8, 2)``."""
        return f"{self.name}: {self.kind} ({', '.join(['batch', *('any' if d is None else str(d) for d in self.shape)])})"


@dataclass(frozen=True)
class Part:
    """One tensor's share of the matrix."""

    name: str
    kind: Kind
    shape: tuple[int, ...]                 # of one row
    columns: NDArray[np.intp]              # of the matrix, in the order in which the tensor holds them

    def cut(self, matrix: NDArray[np.float32]) -> Array:
        """float32 (n, width) -> ``kind`` (n, *shape), C-contiguous.

        Raises ModelError naming tensor and row for a value that the kind does not hold: an integer is never rounded or wrapped.
        """
        values = np.take(matrix, self.columns, axis=1)
        if self.kind in LEAST_MOST:
            least, most = LEAST_MOST[self.kind]
            wrong = (values != np.rint(values)) | (values < least) | (values > most)
            if wrong.any():
                row, column = np.argwhere(wrong)[0]
                raise ModelError(
                    f"tensor {self.name} takes {self.kind}, and row {row} has {values[row, column]:g}; "
                    f"give whole numbers from {least:.0f} to {most:.0f}, untransformed"
                )
        return np.ascontiguousarray(values.astype(self.kind).reshape(len(matrix), *self.shape))


@dataclass(frozen=True)
class Source:
    """One input's columns of the matrix, after the transforms: ``size`` values, each ``widths`` numbers wide."""

    name: str
    first: int
    widths: tuple[int, ...]

    @property
    def size(self) -> int:
        return len(self.widths)


def part(tensor: ModelTensor, sources: Sequence[Source], place: str) -> Part:
    """Which columns a tensor is made of. Raises ModelError naming ``place``, the tensor and both shapes where they do not fit."""
    sizes = {source.size for source in sources}
    what = ", ".join(source.name for source in sources)
    if len(sizes) != 1:
        raise ModelError(f"{place}: tensor {tensor.name} mixes inputs of {' and '.join(map(str, sorted(sizes)))} values ({what}); "
                         "give single values and sequences of each length a tensor of their own")
    (steps,) = sizes
    for source in sources:
        if len(set(source.widths)) != 1:
            raise ModelError(
                f"{place}: the transforms make {source.name} {' and '.join(map(str, sorted(set(source.widths))))} columns wide, by value; "
                f"tensor {tensor.name} takes as many of each: fit it without one_hot, or with the same categories"
            )
    blocks = [
        source.first + np.arange(steps * source.widths[0], dtype=np.intp).reshape(steps, source.widths[0]) for source in sources
    ]
    columns = np.concatenate(blocks, axis=1)
    made = (columns.shape[1],) if steps == 1 else columns.shape
    shape = _fitted(made, tensor.shape, alone=len(sources) == 1 or steps == 1)
    if shape is None:
        raise ModelError(
            f"{place} takes {tensor.text}, and {what} give ({', '.join(['batch', *map(str, made)])}); "
            "export it for that shape, or give the tensor other inputs"
        )
    return Part(tensor.name, tensor.kind, shape, columns.reshape(-1))


def _fitted(made: tuple[int, ...], wanted: tuple[int | None, ...], *, alone: bool) -> tuple[int, ...] | None:
    """The shape to give: as made where that fits; of one input, or of single values, in another of as many numbers."""
    if len(made) == len(wanted) and all(w in (None, m) for m, w in zip(made, wanted, strict=True)):
        return made
    known = [w for w in wanted if w is not None]
    if len(made) == 2 and made[1] == 1 and len(wanted) == 1 and not known:
        return made[:1]
    if alone and len(known) == len(wanted) and prod(known) == prod(made):
        return tuple(known)
    return None


def sources_of(inputs: Sequence[tuple[str, int]], widths: Sequence[int]) -> dict[str, Source]:
    """inputs: (name, values) in order. widths: of each of their columns in turn, how many columns the transforms make of it."""
    found, at, column = {}, 0, 0
    for name, size in inputs:
        own = tuple(widths[column:column + size])
        found[name] = Source(name, at, own)
        at, column = at + sum(own), column + size
    return found
