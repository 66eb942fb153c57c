"""Where a version runs on this machine, and as which variant: measured here, kept beside its manifest, looked up at every load.

    1. make     a session of every variant on every provider that runs here; one that cannot be made says why
    2. drift    its scores of the kept rows against FP32's on the CPU; outside the tolerance it is no choice
    3. speed    all that are left in turns, at every batch size
    4. place    the fastest at the expected batch; FP32 on the CPU unless another is GAIN times as fast

One variant on one provider answers whatever the batch: a score must not depend on how many others were asked at that moment. Where
another would be faster at another batch size the profile shows it. Its file is named by the machine, so that several share a folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from featureflow.errors import ModelError
from featureflow.models import drift, folder, profile
from featureflow.models.manifest import Manifest, Provider, Variant, VariantReport
from featureflow.models.quantize import GAIN
from featureflow.models.session import BUCKETS, Session

BUDGET_S = 0.25                            # of measuring one batch size of all sessions
GPUS = Path("/proc/driver/nvidia/gpus")


class Placed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What answers on a machine, and why that."""

    variant: Variant
    provider: Provider
    reason: str


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was measured of one version on one machine."""

    name: str
    version: str
    manifest: str                          # SHA-256 of its file: quantized again, the version has other variants
    machine: str
    measured_us: int
    rows: int                              # that drift was measured on; 0: none are kept, so it is not known
    expected_batch: int
    variants: tuple[VariantReport, ...]    # FP32 on the CPU first
    chosen: Placed


def machine() -> str:
    """ONNX Runtime, processor and GPUs: what a time was measured on, and a graph optimized for."""
    gpus = sorted(
        line.partition(":")[2].strip() for file in GPUS.glob("*/information") for line in file.read_text(encoding="utf-8").splitlines()
        if line.startswith("Model")
    )
    return ", ".join([f"onnxruntime {onnxruntime.__version__}", profile.processor(), *gpus])


def measure(
    made: Callable[[Variant, Provider], Session], found: Manifest, stamp: str, providers: Sequence[Provider], *, rows: NDArray[np.float32],
    kept: int, tolerance: float, expected_batch: int, now_us: int, batches: Sequence[int] = BUCKETS,
) -> Profile:
    """What the four steps above give.

    made: a session of a variant on a provider, or ModelError. rows: transformed rows float32 (n, width); of none that are ``kept`` drawn
    ones, on which only speed is measured. providers: those that run here, ``cpu`` first.
    Raises ModelError where FP32 does not run on the CPU.
    """
    sessions: dict[tuple[Variant, Provider], Session] = {("fp32", "cpu"): made("fp32", "cpu")}
    expected = sessions["fp32", "cpu"].run(rows)
    reports: dict[tuple[Variant, Provider], VariantReport] = {}
    for provider in providers:
        for variant in found.variants:
            key = (variant, provider)
            problem = differs = None
            try:
                session = sessions[key] = sessions.get(key) or made(variant, provider)
                if session.degraded is not None:
                    raise ModelError(session.degraded)
                if kept:
                    differs = drift.compare(expected, session.run(rows))
                    if key != ("fp32", "cpu"):
                        drift.gate(f"{variant} on {provider}", differs, tolerance)
            except ModelError as error:
                problem = str(error)
                sessions.pop(key, None)
            reports[key] = VariantReport(
                variant=variant, provider=provider, scheme=_scheme(found, variant), bytes=found.variants[variant].bytes,
                drift=differs, problem=problem,
            )
    names = {f"{variant} on {provider}": (variant, provider) for variant, provider in sessions}
    times = profile.measure(
        {name: sessions[key] for name, key in names.items()}, rows, batches=sorted({*batches, expected_batch}), budget_s=BUDGET_S
    )
    measured = tuple(
        msgspec.structs.replace(report, times=times.get(f"{report.variant} on {report.provider}", ())) for report in reports.values()
    )
    return Profile(
        name=found.name, version=found.version, manifest=stamp, machine=machine(), measured_us=now_us, rows=kept,
        expected_batch=expected_batch, variants=measured, chosen=place(measured, expected_batch),
    )


def place(reports: Sequence[VariantReport], expected_batch: int) -> Placed:
    """The fastest of the reports at the expected batch, with the numbers; FP32 on the CPU where none is GAIN times as fast."""
    usable = [r for r in reports if r.times and r.problem is None]
    exact = next(r for r in usable if (r.variant, r.provider) == ("fp32", "cpu"))
    winner = fastest(usable, exact, expected_batch)
    own, base = winner.at(expected_batch).median_us, exact.at(expected_batch).median_us
    if winner is exact:
        said = f"fp32 on cpu: no other is faster at batch {expected_batch} ({base:.0f} us)"
    else:
        gain = f"{base / own:.1f}x faster at batch {expected_batch} ({own:.0f} us, fp32 on cpu {base:.0f})"
        said = f"{winner.variant} on {winner.provider}: {gain}"
        if winner.drift is not None:
            said += f", drift at most {winner.drift.max:.4f}"
    others = {t.batch: best for t in exact.times if (best := fastest(usable, exact, t.batch)) is not winner}
    if others:
        said += "; faster elsewhere: " + ", ".join(
            f"{best.variant} on {best.provider} at {batch} ({best.at(batch).median_us:.0f} us, not {winner.at(batch).median_us:.0f})"
            for batch, best in others.items()
        )
    return Placed(variant=winner.variant, provider=winner.provider, reason=said)


def fastest(usable: Sequence[VariantReport], exact: VariantReport, batch: int) -> VariantReport:
    """The quickest at a batch size, or ``exact`` where it gains too little over that."""
    quickest = min(usable, key=lambda r: r.at(batch).median_us)
    return quickest if quickest.at(batch).median_us * GAIN < exact.at(batch).median_us else exact


# -- its file ----------------------------------------------------------------------------------------------------------

def file_of(what: str) -> str:
    """The name of the file that a machine's profile stands in."""
    return f"profile.{hashlib.sha256(what.encode()).hexdigest()[:12]}.json"


def write(home: Path, found: Profile) -> None:
    """Keep a profile beside the manifest of its version, checksummed as that is."""
    body = msgspec.to_builtins(found)
    body["sha256"] = _digest(found)
    folder.replace(home / file_of(found.machine), msgspec.json.format(msgspec.json.encode(body), indent=1) + b"\n")


def read(home: Path, manifest: str) -> Profile | None:
    """This machine's profile of a version, or None: never measured, of other variants, or not as written. One can do without."""
    path = home / file_of(machine())
    try:
        body = msgspec.json.decode(folder.read(path, limit=folder.TEXT_BYTES), type=dict[str, msgspec.Raw])
        written = msgspec.json.decode(body.pop("sha256", msgspec.Raw(b"null")), type=str)
        found = msgspec.json.decode(msgspec.json.encode(body), type=Profile)
    except (ModelError, msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    return found if written == _digest(found) and found.manifest == manifest else None


def _digest(found: Profile) -> str:
    return hashlib.sha256(msgspec.json.encode(found, order="deterministic")).hexdigest()


def _scheme(found: Manifest, variant: Variant) -> str:
    report = None if found.report is None else found.report.of(variant)
    return variant.upper() if report is None else report.scheme
