"""What there is: views and how far they are, models and what answers for them."""

from __future__ import annotations

from collections.abc import Sequence

from featureflow.errors import UnavailableError
from featureflow.reading.fetch import Unread
from featureflow.serve.scorer import Scorer
from featureflow.serve.wire import v1
from featureflow.store.online.protocol import OffsetRecord


async def views(scorer: Scorer) -> v1.ViewsAnswer:
    """Every view with the offsets of its partitions, as they stand in the online store now. Raises UnavailableError."""
    plans = list(scorer.current().views.values())
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
    out = []
    for name, plan in scorer.current().models.items():
        loaded = scorer.models.latest(name)
        info = None
        if loaded is not None:
            info = v1.LoadedInfo(loaded.version, loaded.variant, loaded.provider, loaded.reason)
        out.append(
            v1.ModelInfo(
                name,
                [i.name for i in plan.model.inputs],
                list(plan.join_keys),
                {n: a.field.type for n, a in plan.context.items()},
                plan.model.deadline_us / 1e3,
                plan.model.when_missing,
                info,
                scorer.models.problem(name),
            )
        )
    return v1.ModelsAnswer(out)
