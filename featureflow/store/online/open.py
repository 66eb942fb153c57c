"""The online store that a URL names: one server, or a Redis Cluster."""

from __future__ import annotations

from featureflow.define.spec import DEFAULT_PROJECT
from featureflow.store.online import cluster, redis
from featureflow.store.online.cluster import ClusterOnlineStore, is_cluster
from featureflow.store.online.cluster_reader import ClusterReader
from featureflow.store.online.reader import AsyncReader
from featureflow.store.online.redis import RedisOnlineStore


def open_online(url: str, *, project: str = DEFAULT_PROJECT) -> RedisOnlineStore:
    """Raises UnavailableError for what is no URL of such a store."""
    return ClusterOnlineStore(url, project=project) if is_cluster(url) else RedisOnlineStore(url, project=project)


def open_reader(url: str, *, tracking: bool = True) -> AsyncReader | ClusterReader:
    """The scorer's side of it; ``tracking``: see ``AsyncReader``. Raises UnavailableError for what is no URL of such a store."""
    return ClusterReader(url) if is_cluster(url) else AsyncReader(url, tracking=tracking)


def buckets_at_first(url: str) -> int:
    """How many buckets a project that is new there is given where nobody says."""
    return cluster.BUCKETS if is_cluster(url) else redis.BUCKETS
