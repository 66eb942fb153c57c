"""Make FP16 and INT8 of an FP32 model, measure what each costs and gains here, refuse what drifts too far, and choose.

    1. make       FP16; INT8 in each scheme, calibrated on the calibration rows
    2. drift      score the held-out rows with each and with FP32; a variant outside the tolerance is refused
    3. speed      run all that are left in turns, at each batch size, on each provider that works here
    4. choose     per provider the fastest at the expected batch; FP32 unless another is GAIN times as fast
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from featureflow.errors import DriftError, ModelError
from featureflow.models import drift, timing
from featureflow.models.half import to_half
from featureflow.models.int8 import schemes, to_int8
from featureflow.models.machine import processor
from featureflow.models.manifest import (
    BatchTime,
    Choice,
    Drift,
    Probe,
    Provider,
    QuantizationReport,
    Variant,
    VariantReport,
    probe_of,
)
from featureflow.models.onnx_file import parse
from featureflow.models.session import Session
from featureflow.models.signature import Signature
from featureflow.models.timing import fastest
from featureflow.models.weight_only import to_weights

EXPECTED_BATCH = 32
LEAST_ROWS = 64                            # of calibration, and of held-out rows: fewer say nothing of a largest drift
CALIBRATION_ROWS = 1_024
HELD_OUT_ROWS = 16_384
NEAR = 1.1                                 # schemes this close in speed are told apart by their drift
PROBE_ROWS = 8

WEIGHT_ONLY: dict[Variant, int] = {"w8": 8, "w4": 4}

Float32 = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """Transformed rows float32 (n, width), and their labels bool (n,) where known. Calibration and held-out rows are different rows."""

    calibration: Float32
    held_out: Float32
    labels: Bools | None = None            # of the held-out rows


@dataclass(frozen=True)
class Quantized:
    """All that ``quantize`` found out: the files of the variants that passed, and which of them answers where."""

    files: dict[Variant, bytes]            # without FP32
    report: QuantizationReport
    chosen: dict[Provider, Choice]
    probe: Probe


@dataclass(frozen=True)
class _Candidate:
    variant: Variant
    scheme: str
    content: bytes
    session: Session                       # on the CPU
    drift: Drift


_Admit = Callable[[Variant, str, onnx.ModelProto], _Candidate]


def split(rows: Float32, labels: Bools | None = None) -> Rows:
    """Every other row calibrates, the others are held out; both evenly thinned to their limits. Raises ModelError below 2 * LEAST_ROWS."""
    if len(rows) < 2 * LEAST_ROWS:
        raise ModelError(
            f"{len(rows)} rows are too few to calibrate and to measure drift; give at least {2 * LEAST_ROWS}, better thousands"
        )
    if labels is not None and len(labels) != len(rows):
        raise ModelError(f"{len(labels)} labels are given for {len(rows)} rows; give one per row")
    calibration = _thinned((len(rows) + 1) // 2, CALIBRATION_ROWS) * 2
    held_out = _thinned(len(rows) // 2, HELD_OUT_ROWS) * 2 + 1
    return Rows(rows[calibration], rows[held_out], None if labels is None else labels[held_out].astype(bool))


def quantize(
    fp32: bytes,
    signature: Signature,
    columns: Sequence[str],
    rows: Rows,
    *,
    tolerance: float,
    place: str = "the model",
    variants: Sequence[Variant] = ("fp16", "int8"),
    expected_batch: int = EXPECTED_BATCH,
    providers: Sequence[Provider] = ("cpu",),
) -> Quantized:
    """What the four steps above give.

    columns: the name of each column of the rows. tolerance: largest |score - FP32 score| on a held-out row, at most drift.CEILING.
    providers: those that run here; ``cpu`` among them.

    Raises DriftError when a variant that was asked for is outside the tolerance in every way that it can be made, ModelError when the
    rows are too few or FP32 itself does not run on them. A variant that cannot be made is no error: the report says why.
    """
    drift.check_tolerance(tolerance)
    for what, given in (("calibration", rows.calibration), ("held-out", rows.held_out)):
        if len(given) < LEAST_ROWS:
            raise ModelError(f"{place} has {len(given)} {what} rows; give at least {LEAST_ROWS}")
    if not 1 <= expected_batch <= 1_024:
        raise ModelError(f"the expected batch is {expected_batch}; write 1 to 1024")
    model = parse(fp32, place)
    reference = Session(fp32, signature, columns, "cpu", f"{place} (fp32)")
    expected = reference.run(rows.held_out)
    batches = sorted({*timing.BATCHES, expected_batch})
    base = _Candidate("fp32", "FP32", fp32, reference, drift.compare(expected, expected, rows.labels))
    unmade: list[VariantReport] = []
    tried: list[str] = []
    admitted = [base]

    def admit(variant: Variant, scheme: str, made: onnx.ModelProto) -> _Candidate:
        content = made.SerializeToString()
        found = Session(content, signature, columns, "cpu", f"{place} ({scheme})")
        differs = drift.compare(expected, found.run(rows.held_out), rows.labels)
        drift.gate(f"{place} in {scheme}", differs, tolerance)
        return _Candidate(variant, scheme, content, found, differs)

    if "fp16" in variants:
        try:
            admitted.append(admit("fp16", "FP16", to_half(model)))
        except DriftError:
            raise
        except ModelError as error:
            unmade.append(VariantReport(variant="fp16", provider="cpu", scheme="FP16", bytes=0, problem=str(error)))
    for variant, bits in WEIGHT_ONLY.items():
        if variant in variants:                # tried where INT8 products may be absent: one that drifts is left out, and is no error
            try:
                admitted.append(admit(variant, f"weights of {bits} bits", to_weights(model, bits)))
            except ModelError as error:
                problem = str(error)
                unmade.append(VariantReport(variant=variant, provider="cpu", scheme=f"weights of {bits} bits", bytes=0, problem=problem))
    if "int8" in variants:
        best, others = _int8(model, signature, rows, admit, expected_batch)
        tried += others
        if best is None:
            problem = "; ".join(others) or "it has no layer to quantize"
            unmade.append(VariantReport(variant="int8", provider="cpu", scheme="INT8", bytes=0, problem=problem))
        else:
            admitted.append(best)

    reports: list[VariantReport] = []      # FP32 first
    for provider in providers:
        reports += _measured(admitted, provider, signature, columns, rows, batches, tolerance, place)
    reports += [msgspec.structs.replace(r, provider=provider) for provider in providers for r in unmade]
    chosen = {p: choose([r for r in reports if r.provider == p], expected_batch) for p in providers}
    report = QuantizationReport(
        tolerance=tolerance, calibration_rows=len(rows.calibration), held_out_rows=len(rows.held_out), expected_batch=expected_batch,
        runtime=f"onnxruntime {onnxruntime.__version__}", processor=processor(), variants=tuple(reports), tried=tuple(tried),
    )
    picked = _thinned(len(rows.held_out), PROBE_ROWS)
    files: dict[Variant, bytes] = {c.variant: c.content for c in admitted if c.variant != "fp32"}
    return Quantized(files, report, chosen, probe_of(rows.held_out[picked], expected[picked], tolerance))


def choose(reports: Sequence[VariantReport], expected_batch: int) -> Choice:
    """The variant of one provider's reports that is fastest at the expected batch, and why, with the numbers.

    FP32 unless another takes less than 1 / GAIN of its time. Where another batch size would choose otherwise, the reason says so.
    """
    usable = [r for r in reports if r.times and r.problem is None]
    exact = next(r for r in usable if r.variant == "fp32")
    others = [r for r in usable if r.variant != "fp32"]
    notes = [f"{r.variant}: {r.problem}" for r in reports if r.problem is not None]

    def against(report: VariantReport, batch: int) -> str:
        mine, theirs = report.at(batch).median_us, exact.at(batch).median_us
        return f"{theirs / mine:.1f}x faster at batch {batch} ({mine:.0f} us, fp32 {theirs:.0f})"

    winner = fastest(usable, exact, expected_batch)
    if winner is exact:
        rest = ", ".join(f"{r.variant} {r.at(expected_batch).median_us:.0f}" for r in others)
        at = f"{exact.at(expected_batch).median_us:.0f} us"
        said = [f"fp32: exact, and no other is faster at batch {expected_batch} ({at}{'; ' + rest if rest else ''})"]
    else:
        assert winner.drift is not None
        said = [f"{winner.variant}: {against(winner, expected_batch)}, drift at most {winner.drift.max:.4f}, mean {winner.drift.mean:.4f}"]
    for batch in (time.batch for time in exact.times if time.batch != expected_batch):
        here = fastest(usable, exact, batch)
        if here is winner:
            continue
        if here is exact:
            mine, theirs = exact.at(batch).median_us, winner.at(batch).median_us
            said.append(f"fp32 at batch {batch} ({mine:.0f} us, {winner.variant} {theirs:.0f})")
        else:
            said.append(f"{here.variant} {against(here, batch)}")
    if len(said) > 1:
        said.append(f"chosen for the expected batch of {expected_batch}")
    return Choice(variant=winner.variant, reason="; ".join([*said, *notes]))


def _int8(
    model: onnx.ModelProto, signature: Signature, rows: Rows, admit: _Admit, expected_batch: int
) -> tuple[_Candidate | None, list[str]]:
    """The scheme to use, and what is to be said of the others. Raises DriftError when some could be made but none is near enough."""
    passed: dict[str, _Candidate] = {}
    said: list[str] = []
    drifted: list[DriftError] = []
    for scheme in schemes(model):
        try:
            passed[str(scheme)] = admit("int8", str(scheme), to_int8(model, signature, rows.calibration, scheme))
        except DriftError as error:
            drifted.append(error)
            said.append(str(error).partition(". ")[0])         # without its advice: another scheme may do
        except ModelError as error:
            said.append(str(error))
    if not passed:
        if drifted:
            raise drifted[0]
        return None, said
    times = {
        name: found[0].median_us
        for name, found in timing.measure({n: c.session for n, c in passed.items()}, rows.held_out, batches=(expected_batch,)).items()
    }
    near = [name for name in times if times[name] <= NEAR * min(times.values())]
    best = min(near, key=lambda name: passed[name].drift.mean)
    said += [
        f"{name}: {times[name]:.0f} us at batch {expected_batch}, drift at most {c.drift.max:.4f}, mean {c.drift.mean:.4f}"
        for name, c in passed.items() if name != best
    ]
    return passed[best], said


def _measured(
    admitted: Sequence[_Candidate], provider: Provider, signature: Signature, columns: Sequence[str], rows: Rows, batches: Sequence[int],
    tolerance: float, place: str,
) -> list[VariantReport]:
    """One report per admitted variant on this provider; drift is measured against FP32 on the CPU, whose scores are the reference."""
    sessions: dict[str, Session] = {}
    drifts: dict[str, Drift] = {}
    problems: dict[str, str] = {}
    expected = admitted[0].session.run(rows.held_out)
    for candidate in admitted:
        name = candidate.variant
        try:
            if provider == "cpu":
                sessions[name], drifts[name] = candidate.session, candidate.drift
                continue
            made = Session(candidate.content, signature, columns, provider, f"{place} ({candidate.scheme})")
            found = drift.compare(expected, made.run(rows.held_out), rows.labels)
            drift.gate(f"{place} in {candidate.scheme} on {provider}", found, tolerance)
            sessions[name], drifts[name] = made, found
        except ModelError as error:
            if name == "fp32":
                raise
            problems[name] = str(error)
    times: dict[str, tuple[BatchTime, ...]] = timing.measure(sessions, rows.held_out, batches=batches)
    return [
        VariantReport(
            variant=c.variant, provider=provider, scheme=c.scheme, bytes=len(c.content), drift=drifts.get(c.variant),
            times=times.get(c.variant, ()), problem=problems.get(c.variant),
        )
        for c in admitted
    ]


def _thinned(count: int, most: int) -> NDArray[np.intp]:
    """At most ``most`` indices below ``count``, evenly spread."""
    return np.arange(count) if count <= most else (np.arange(most) * count) // most
