"""What there is: views and how far they are, models and what answers for them."""

from __future__ import annotations

from collections.abc import Sequence

from featureflow.errors import UnavailableError
from featureflow.models.release import WHOLE
from featureflow.reading.fetch import Unread
from featureflow.serve.assigned import Carried
from featureflow.serve.explain import rfc3339
from featureflow.serve.scorer import Scorer
from featureflow.serve.wire import v1
from featureflow.store.online.protocol import OffsetRecord


async def views(scorer: Scorer) -> v1.ViewsAnswer:
    """Every view with the offsets of its partitions, as they stand in the online store now. Raises UnavailableError."""
    plans = list(scorer.served.current().views.values())
    read = await scorer.fetcher.offsets(plans)
    if isinstance(read, Unread):
        raise UnavailableError(read.detail)
    now_ms = scorer.wall.now_us() // 1000
    out = []
    for plan, records in zip(plans, read, strict=True):
        at, sources = 0, {}
        furthest_behind = [_furthest_behind(of_buckets) for of_buckets in zip(*records, strict=True)]
        for source in plan.sources:
            own, at = furthest_behind[at : at + source.partitions], at + source.partitions
            sources[source.name] = [
                v1.PartitionInfo(p, None, None, None, False)
                if r is None
                else v1.PartitionInfo(
                    p,
                    r.offset,
                    max(0, now_ms - r.committed_ms),
                    max(0, now_ms - r.complete_ms) if r.complete_ms else None,
                    r.dirty != -1,
                )
                for p, r in enumerate(own)
            ]
        features = [
            v1.FeatureInfo(f.name, f.aggregation.op, f.aggregation.source, f.window.text, f.size, f.aggregation.default)
            for f in plan.view.features
        ]
        out.append(
            v1.ViewInfo(plan.view.name, plan.view.version, plan.view.entity, plan.view.join_key, sources, features)
        )
    return v1.ViewsAnswer(out)


def _furthest_behind(of_buckets: Sequence[OffsetRecord | None]) -> OffsetRecord | None:
    """Of one partition, the bucket that says least: none, a dirty one, or the lowest offset."""
    return min(of_buckets, key=lambda r: (-1, 0, 0) if r is None else (r.dirty == -1, r.offset, r.complete_ms))


def models(scorer: Scorer) -> v1.ModelsAnswer:
    """Every model of the applied definitions, and what answers for it."""
    return v1.ModelsAnswer([model(scorer, name) for name in scorer.served.current().models])


def model(scorer: Scorer, name: str) -> v1.ModelInfo:
    """One model of the applied definitions, with the inputs of the version that answers. Raises RequestError (404)."""
    declared = scorer.served.model(name)
    answers = scorer.models.latest(name)
    plan, loaded = (declared, None) if answers is None else (answers.plan, answers.loaded)
    carried = scorer.releases.carried.get(name)
    return v1.ModelInfo(
        name,
        [i.name for i in plan.model.inputs],
        list(plan.join_keys),
        {n: a.field.type for n, a in plan.context.items()},
        plan.model.deadline_us / 1e3,
        plan.model.when_missing,
        None if loaded is None else v1.LoadedInfo(loaded.version, loaded.variant, loaded.provider, loaded.reason),
        scorer.releases.problems.get(name) or scorer.models.problem(name),
        None if carried is None else _release(carried, scorer.releases.processes(name)),
    )


def _release(carried: Carried, processes: int | None) -> v1.ReleaseInfo:
    release = carried.release
    return v1.ReleaseInfo(
        release.number,
        release.step,
        rfc3339(release.made_at_us),
        [
            v1.ArmInfo(arm.name, arm.version, arm.weight / WHOLE, count.rows, count.failed, count.mean_ms, count.lacking)
            for arm, count in carried.counts
        ],
        None if release.shadow is None else release.shadow.version,
        release.sticky,
        carried.ended,
        {
            name: value
            for name in release.bounds.__struct_fields__
            if (value := getattr(release.bounds, name)) is not None
        },
        processes,
    )
