"""Where a version runs on this machine, and as which variant: measured here.

    1. make     a session of every variant on every provider that runs here; one that cannot be made says why
    2. drift    its scores of the kept rows against FP32's on the CPU; outside the tolerance it is no choice
    3. speed    all that are left in turns, at every batch size
    4. place    the fastest at the expected batch; FP32 on the CPU unless another is GAIN times as fast

One variant on one provider answers whatever the batch: a score must not depend on how many others were asked at that moment. Where
another would be faster at another batch size the profile shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from featureflow.errors import ModelError
from featureflow.models import drift, timing
from featureflow.models.machine import machine
from featureflow.models.manifest import Manifest, Provider, Variant, VariantReport
from featureflow.models.profile import Placed, Profile
from featureflow.models.session import BUCKETS, Session
from featureflow.models.timing import fastest

BUDGET_S = 0.25                            # of measuring one batch size of all sessions


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
    times = timing.measure(
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


def _scheme(found: Manifest, variant: Variant) -> str:
    report = None if found.report is None else found.report.of(variant)
    return variant.upper() if report is None else report.scheme
