"""How many requests a second this process can answer within a model's deadline, by what it measured while it served them."""

from __future__ import annotations

from featureflow.serve.admission import Cost
from featureflow.serve.deadline import budget_of
from featureflow.serve.durations import BUCKETS, Durations, bucket_of
from featureflow.serve.scorer import Scorer
from featureflow.serve.wire import v1


def of(scorer: Scorer, name: str) -> v1.CapacityAnswer:
    """Raises RequestError (404), UnavailableError before there are definitions."""
    plan = scorer.served.model(name)
    budget_s = budget_of(None, plan.deadline_s)
    admission = scorer.lanes.of(name).admission
    kind, cost = admission.kind(name), admission.cost(name, budget_s)
    answer = v1.CapacityAnswer(
        model=name,
        deadline_ms=plan.model.deadline_us / 1e3,
        req_s=None,
        rows_per_turn=None,
        turn_ms=None,
        limit=None,
        why="no turn of this model has ended lately, so nothing is known: send it requests",
        margin=round(admission.margin, 3),
        lag_ms=_ms(admission.lag_s),
        waiting=admission.waiting.requests,
        stages=[],
        batches=_batches(kind.turns),
    )
    if not cost.known:
        return answer
    rows = cost.rows
    answer.stages = _stages(scorer, name, rows, cost)
    answer.rows_per_turn, answer.turn_ms = rows, _ms(cost.turn_s)
    read_s = 0.0 if admission.under_way > 1 else rows * scorer.spent.read_s  # beside the loop it is computed meanwhile
    answer.req_s = round(rows / (cost.turn_s + read_s), 1)
    most = max(answer.stages, key=lambda stage: stage.typical_ms)
    answer.limit, answer.why = most.stage, _why(answer, most, budget_s, cost, 1 + admission.under_way)
    return answer


def _stages(scorer: Scorer, name: str, rows: int, cost: Cost) -> list[v1.StageCapacity]:
    read_s = rows * scorer.spent.read_s
    whole_s, at = cost.turn_s + read_s, bucket_of(rows)
    found = [("read", read_s, read_s)]
    for stage, durations in scorer.spent.of(name).items():
        found.append((stage, durations.typical_of(rows), durations.slow()[at]))
    other_s = max(0.0, whole_s - sum(typical_s for _, typical_s, _ in found))
    found.append(("other", other_s, other_s))
    return [
        v1.StageCapacity(stage, _ms(typical_s), _ms(max(typical_s, slow_s)), round(typical_s / whole_s, 3))
        for stage, typical_s, slow_s in found
    ]


def _batches(turns: Durations) -> list[v1.BatchCapacity]:
    typical, slow = turns.typical(), turns.slow()
    return [
        v1.BatchCapacity(BUCKETS[at], _ms(typical[at]), _ms(max(slow[at], typical[at])), round(BUCKETS[at] / typical[at], 1))
        for at in range(len(BUCKETS))
        if turns.measured(at) and typical[at]
    ]


def _why(answer: v1.CapacityAnswer, most: v1.StageCapacity, budget_s: float, cost: Cost, times: int) -> str:
    fits = times * cost.turn_s * answer.margin + cost.tail_s <= budget_s
    turn = f"{answer.rows_per_turn} row{'s' if answer.rows_per_turn != 1 else ''} in {answer.turn_ms} ms"
    said = (
        f"a turn of {turn} is the largest that fits {times} times into {answer.deadline_ms:g} ms with {_ms(cost.tail_s)} ms for a slow one"
        if fits
        else f"even a turn of {turn} does not fit {times} times into {answer.deadline_ms:g} ms, so one that meets another is refused"
    )
    return f"{said}; {most.share:.0%} of it is {most.stage}"


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)
