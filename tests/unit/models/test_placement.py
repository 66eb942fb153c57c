from __future__ import annotations

from featureflow.models.manifest import BatchTime, Drift, Provider, Variant, VariantReport
from featureflow.models.placement import place


def report(variant: Variant, provider: Provider, *us: float, problem: str | None = None) -> VariantReport:
    times = tuple(BatchTime(batch=batch, median_us=t, p99_us=2 * t) for batch, t in zip((1, 32), us, strict=False))
    drift = None if problem else Drift(max=0.012, mean=0.001, agreement=1.0)
    return VariantReport(variant=variant, provider=provider, scheme=variant, bytes=1, drift=drift, times=times, problem=problem)


EXACT = report("fp32", "cpu", 10, 100)


def test_the_fastest_at_the_expected_batch_is_chosen_wherever_it_runs() -> None:
    found = place([EXACT, report("int8", "cpu", 12, 50), report("fp16", "cuda", 40, 45)], 32)
    assert (found.variant, found.provider) == ("fp16", "cuda")
    assert found.reason == (
        "fp16 on cuda: 2.2x faster at batch 32 (45 us, fp32 on cpu 100), drift at most 0.0120; "
        "faster elsewhere: fp32 on cpu at 1 (10 us, not 40)"
    )


def test_a_small_model_stays_on_the_cpu_though_there_is_a_gpu() -> None:
    found = place([EXACT, report("fp32", "cuda", 40, 96), report("int8", "cpu", 12, 97)], 32)
    assert (found.variant, found.provider) == ("fp32", "cpu")
    assert found.reason == "fp32 on cpu: no other is faster at batch 32 (100 us)"


def test_what_drifts_too_far_or_does_not_run_is_no_choice() -> None:
    found = place([EXACT, report("int8", "cpu", 1, 1, problem="int8 on cpu differs"), report("fp16", "cuda", problem="no kernel")], 32)
    assert (found.variant, found.provider) == ("fp32", "cpu")
