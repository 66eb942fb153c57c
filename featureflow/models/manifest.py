"""What stands beside a model's ONNX files: everything that a scorer must know to use them, and to refuse them.

``manifest.json`` carries its own SHA-256: a flipped bit in a transform would change scores as silently as one in a weight.
"""

from __future__ import annotations

import hashlib
import math
import re
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from featureflow.define import spec
from featureflow.errors import ModelError
from featureflow.models import checksummed
from featureflow.models.reads import Reads
from featureflow.models.tensors import ModelTensor
from featureflow.models.transform import Transforms

FORMAT = 1
FILE = "manifest.json"
# members that format 1 did not have at first, and their defaults
LATER: dict[str, object] = {"rank": None, "tensors": [], "outputs": [], "column": None, "reads": None}
Variant = Literal["fp32", "fp16", "int8", "w8", "w4"]  # w8, w4: weights of so many bits, arithmetic in floats
Provider = Literal["cpu", "cuda", "tensorrt"]
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,63}")


class _Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


def check_name(name: str, what: str) -> None:
    """Raises ModelError unless the name can be a folder's, on its own and in a request's path."""
    if not NAME.fullmatch(name):
        raise ModelError(f"{name!r} cannot name {what}: write letters, digits, _ . - (at most 64, no leading . or -)")


class ModelInput(_Value, frozen=True):
    """One named input: ``size`` columns of the matrix, in the manifest's order.

    ``default`` stands for an undefined value, before the transforms.
    """

    name: str
    size: int = 1
    default: float | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ModelError(f"input {self.name} has {self.size} columns; it has at least one")
        if self.default is not None and not math.isfinite(self.default):
            raise ModelError(f"the default of input {self.name} is {self.default}; write a finite number, or None")


class Artifact(_Value, frozen=True):
    """A file of the version's directory."""

    file: str
    sha256: str
    bytes: int


class Drift(_Value, frozen=True):
    """How far scores are from FP32's over held-out rows, and what labels say of it."""

    max: float                             # largest |score - FP32 score|
    mean: float
    agreement: float                       # 1 - mean squared difference / variance of FP32's scores; 1.0 where those are all equal
    auc: float | None = None
    auc_loss: float | None = None          # FP32's AUC less this one's; negative: better by chance
    rank: float | None = None              # Spearman's rank correlation with FP32's scores; None where those are all equal


class BatchTime(_Value, frozen=True):
    """Microseconds of one run of ``batch`` rows on the machine that measured."""

    batch: int
    median_us: float
    p99_us: float


class VariantReport(_Value, frozen=True):
    """One variant on one provider."""

    variant: Variant
    provider: Provider
    scheme: str                            # "FP32", "FP16", "INT8 (U8S8), last layer in FP32"
    bytes: int
    drift: Drift | None = None             # None where it did not run
    times: tuple[BatchTime, ...] = ()
    problem: str | None = None             # why it is no choice on this provider

    def at(self, batch: int) -> BatchTime:
        """The times at this batch size. Raises StopIteration where it was not measured."""
        return next(time for time in self.times if time.batch == batch)


class QuantizationReport(_Value, frozen=True):
    """What was measured of every variant when the version was added, on rows that no calibration had seen."""

    tolerance: float
    calibration_rows: int
    held_out_rows: int
    expected_batch: int
    runtime: str                           # "onnxruntime 1.31.1"
    processor: str
    variants: tuple[VariantReport, ...]
    tried: tuple[str, ...] = ()            # the other ways to quantize, each with its numbers

    def of(self, variant: Variant, provider: Provider = "cpu") -> VariantReport | None:
        """None where the variant was not tried on this provider."""
        return next((v for v in self.variants if v.variant == variant and v.provider == provider), None)


class Choice(_Value, frozen=True):
    """The variant that answers on one provider, and why that."""

    variant: Variant
    reason: str


class Probe(_Value, frozen=True):
    """A few transformed rows and what FP32 says of them: every load scores them again before it takes traffic.

    A file that is whole can still answer differently on another processor or ONNX Runtime (saturating 8-bit products, say).
    """

    rows: tuple[tuple[float, ...], ...]    # float32 values
    scores: tuple[float, ...]
    tolerance: float                       # what a quantized variant may differ by

    def __post_init__(self) -> None:
        if not self.rows or len(self.rows) != len(self.scores) or len({len(row) for row in self.rows}) != 1:
            raise ModelError("the probe has not one score for each of its rows, or rows of several widths: quantize again")


class Manifest(_Value, frozen=True):
    """Version and file names are strings of letters, digits, ``_ . -``."""

    name: str
    version: str
    created_us: int
    inputs: tuple[ModelInput, ...]
    transforms: Transforms
    tensor: str                            # the ONNX input, float32 (batch, transforms.width_out); "" where ``tensors`` are named
    output: str                            # the ONNX output that is the score
    variants: dict[Variant, Artifact]
    chosen: dict[Provider, Choice] = {}
    vectors: Artifact | None = None        # rows kept for calibration, before the transforms
    report: QuantizationReport | None = None
    probe: Probe | None = None
    format: int = FORMAT
    tensors: tuple[ModelTensor, ...] = ()  # what the file takes by name; none: ``tensor`` alone
    outputs: tuple[ModelTensor, ...] = ()  # all that it gives; unknown of versions that were added before there was this
    column: int | None = None              # of ``output``, where that has several: which one is the score
    reads: Reads | None = None             # what its inputs are computed from; unknown of versions that were added before there was this

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ModelError(f"the manifest has format {self.format}, this FeatureFlow reads {FORMAT}: add the model again, or upgrade")
        width = sum(item.size for item in self.inputs)
        if width != self.transforms.width_in or not width:
            raise ModelError(
                f"the inputs have {width} columns in all, the transforms take {self.transforms.width_in}; fit them on the same inputs"
            )
        if self.reads is not None and self.reads.inputs.keys() != {item.name for item in self.inputs}:
            raise ModelError("the manifest does not say of each input what it is computed from: add the model again")
        if len({item.name for item in self.inputs}) != len(self.inputs):
            raise ModelError(f"two inputs have one name: {', '.join(item.name for item in self.inputs)}; name each once")
        for name in (self.name, self.version):
            check_name(name, "a model or version")
        for item in (*self.variants.values(), *([self.vectors] if self.vectors else [])):
            if not NAME.fullmatch(item.file):
                raise ModelError(f"the manifest names the file {item.file!r}; files stand in the version's own directory")

    @property
    def width(self) -> int:
        """Columns of the matrix that ``score`` takes."""
        return self.transforms.width_in

    @property
    def column_names(self) -> tuple[str, ...]:
        """The input behind each column of the matrix; ``name[i]`` where it has several."""
        return tuple(
            item.name if item.size == 1 else f"{item.name}[{i}]" for item in self.inputs for i in range(item.size)
        )

    @property
    def transformed_names(self) -> tuple[str, ...]:
        """The same of each column of the transformed matrix, which is what a session is given."""
        return tuple(self.column_names[i] for i in self.transforms.sources)

    def choice(self, provider: Provider) -> Choice:
        """The variant for a provider and why; FP32 where nothing was measured there."""
        found = self.chosen.get(provider)
        if found is not None:
            return found
        why = "no other variant was made" if len(self.variants) == 1 else f"the others were not measured on {provider}"
        return Choice(variant="fp32", reason=f"fp32: {why}")

    def check_inputs(self, model: spec.Model) -> None:
        """Raises ModelError unless the definition has the inputs that this version was made for: names, sizes and defaults, in order."""
        asked = inputs_of(model)
        tensors = tuple((t.name, t.inputs) for t in self.tensors)
        declared = tuple((t.name, t.inputs) for t in model.tensors)
        if asked == self.inputs and tensors == declared:
            return
        mine = {item.name: item for item in self.inputs}
        theirs = {item.name: item for item in asked}
        problems = [f"{n} is not in the definition" for n in mine if n not in theirs]
        problems += [f"{n} is not in the model" for n in theirs if n not in mine]
        for name in mine.keys() & theirs.keys():
            a, b = mine[name], theirs[name]
            if a.size != b.size:
                problems.append(f"{name} has {a.size} columns in the model and {b.size} in the definition")
            if a.default != b.default:
                problems.append(f"{name} has the default {a.default} in the model and {b.default} in the definition")
        if not problems and asked == self.inputs:
            problems = [f"it takes the tensors {_named(tensors)}, and the definition gives {_named(declared)}"]
        what = "; ".join(sorted(problems)) or "the same inputs stand in another order"
        raise ModelError(
            f"model {self.name}@{self.version} does not fit its definition: {what}. "
            "Train it on the definition's inputs and add a new version, or write the definition as it was"
        )


def as_added(manifest: Manifest, project: spec.Project) -> spec.Model:
    """The project's definition of this version's model, with the inputs that the version was added with; itself where these are the same.

    Raises ModelError where the project has no such model, or cannot compute those inputs any more, naming what is gone. Of a version that
    was added before manifests said what inputs are computed from, the definition must have inputs of the same names, sizes and defaults.
    """
    declared = next((model for model in project.models if model.name == manifest.name), None)
    if declared is None:
        known = ", ".join(model.name for model in project.models) or "none"
        raise ModelError(f"the definitions have no model {manifest.name!r}; they have {known}")
    if declared.ensemble is not None:
        raise ModelError(f"{manifest.name} is an ensemble in the definitions and a file in the model folder: give one of them another name")
    if manifest.reads is None:
        manifest.check_inputs(declared)
        return declared
    if problems := list(manifest.reads.lacks(project)):
        raise ModelError(
            f"model {manifest.name}@{manifest.version} reads what is not there as it was when the version was added: "
            f"{'; '.join(problems)}. Add a version that is trained on what there is now, or write the definition as it was"
        )
    inputs = tuple(
        spec.Input(name=one.name, expr=manifest.reads.inputs[one.name], size=one.size, default=one.default) for one in manifest.inputs
    )
    tensors = tuple(spec.Tensor(name=tensor.name, inputs=tensor.inputs) for tensor in manifest.tensors)
    if (inputs, tensors) == (declared.inputs, declared.tensors):
        return declared
    return msgspec.structs.replace(declared, inputs=inputs, tensors=tensors)


def with_inputs_of(manifest: Manifest, project: spec.Project) -> spec.Project:
    """The project with ``as_added`` in the place of that definition. Raises ModelError as that does."""
    added = as_added(manifest, project)
    return msgspec.structs.replace(project, models=tuple(added if model.name == added.name else model for model in project.models))


def _named(tensors: tuple[tuple[str, tuple[str, ...]], ...]) -> str:
    return "; ".join(f"{name} of {', '.join(inputs)}" for name, inputs in tensors) or "none by name"


def inputs_of(model: spec.Model) -> tuple[ModelInput, ...]:
    """The inputs that a definition asks of its model's versions."""
    return tuple(ModelInput(name=i.name, size=i.size, default=i.default) for i in model.inputs)


def artifact(file: str, content: bytes) -> Artifact:
    """A file with its checksum."""
    return Artifact(file=file, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))


def encode(manifest: Manifest) -> bytes:
    """Readable JSON with its checksum, and a last line end."""
    return checksummed.encode(manifest, LATER) + b"\n"


def decode(content: bytes, place: str) -> Manifest:
    """Raises ModelError naming ``place`` when it is not a manifest or not the one that was written."""
    try:
        found = checksummed.decode(content, Manifest, LATER)
    except ModelError as error:
        raise ModelError(f"{place} is not a model manifest: {error}; add the model again") from error
    if found is None:
        raise ModelError(f"{place} was changed after it was written (its SHA-256 differs); restore it or add the model again")
    return found


def probe_of(rows: NDArray[np.float32], scores: NDArray[np.float64], tolerance: float) -> Probe:
    """From transformed rows float32 (n, width) and the scores float64 (n,) that FP32 gives them."""
    return Probe(rows=tuple(tuple(row) for row in rows.tolist()), scores=tuple(scores.tolist()), tolerance=tolerance)
