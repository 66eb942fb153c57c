"""What a session is given, cut from the one matrix of a model's inputs, and which of its file's outputs is the score."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from featureflow.define import spec
from featureflow.errors import ModelError
from featureflow.models import tensors
from featureflow.models.manifest import Manifest
from featureflow.models.tensors import FLOATS, Array, ModelTensor, Part, sources_of


@dataclass(frozen=True)
class Signature:
    """tensor: the input's name, float32 (batch, width); width None where the file leaves it open. output: the scores' name.

    parts: where the file takes tensors by name, what each is cut from the matrix; ``tensor`` then says nothing.
    column: of an output (batch, k), which of its columns is the score.
    """

    tensor: str
    width: int | None
    output: str
    parts: tuple[Part, ...] = ()
    column: int | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of what it takes: names, types and shapes."""
        takes = [(p.name, p.kind, p.shape) for p in self.parts] if self.parts else (self.tensor, "float32", self.width)
        return hashlib.sha256(repr(takes).encode()).hexdigest()

    def feeds(self, matrix: NDArray[np.float32]) -> dict[str, Array]:
        """The tensors of the rows float32 (n, width). Raises ModelError for a value that a tensor's type does not hold."""
        return {part.name: part.cut(matrix) for part in self.parts} if self.parts else {self.tensor: matrix}

    def drawn(self, rows: int, width: int) -> NDArray[np.float32]:
        """Rows to try a model on, float32 (rows, width): zeros, ones, then normal numbers, of tensors of whole numbers zeros and ones."""
        matrix = np.random.default_rng(0).standard_normal((rows, width)).astype(np.float32)
        for part in self.parts:
            if part.kind not in FLOATS:
                matrix[:, part.columns] = matrix[:, part.columns] > 0
        matrix[0], matrix[1] = 0, 1
        return matrix


def signature_of(manifest: Manifest) -> Signature:
    """That of a version which was added. Raises ModelError where its tensors do not fit its inputs."""
    if manifest.tensors:
        return Signature("", None, manifest.output, parts_of(manifest, f"model {manifest.name}@{manifest.version}"), manifest.column)
    return Signature(manifest.tensor, manifest.transforms.width_out, manifest.output, column=manifest.column)


def parts_of(manifest: Manifest, place: str) -> tuple[Part, ...]:
    """What each of the version's tensors is cut from. Raises ModelError naming ``place`` where one does not fit its inputs."""
    widths = [column.width for column in manifest.transforms.columns]
    sources = sources_of([(item.name, item.size) for item in manifest.inputs], widths)
    return tuple(tensors.part(tensor, [sources[name] for name in tensor.inputs], place) for tensor in manifest.tensors)


def matched(taken: tuple[ModelTensor, ...], declared: tuple[spec.Tensor, ...], place: str) -> tuple[ModelTensor, ...]:
    """The file's tensors with the inputs that the definition makes them of, in the definition's order; none where it names none.

    Raises ModelError naming ``place`` unless the definition names each of the file's tensors, and no other.
    """
    if not declared:
        return ()
    by_name = {tensor.name: tensor for tensor in taken}
    if by_name.keys() != {tensor.name for tensor in declared}:
        raise ModelError(
            f"{place} takes {'; '.join(t.text for t in taken)}, and the definition gives {', '.join(t.name for t in declared)}; "
            "name each tensor of the file in inputs = {...}, and no other"
        )
    return tuple(msgspec.structs.replace(by_name[tensor.name], inputs=tensor.inputs) for tensor in declared)
