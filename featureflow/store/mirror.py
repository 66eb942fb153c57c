"""What the online store mirrors of the registry, so that workers and scorers start and run while SQL is down."""

from __future__ import annotations

import msgspec

from featureflow.define import spec
from featureflow.errors import StateError
from featureflow.store.online.protocol import OnlineStore

PROJECT_DOCUMENT = "project"               # JSON of define.spec.Project
BUCKETS_DOCUMENT = "buckets"               # how many buckets states are in, as decimal digits; absent: one
OWNER_DOCUMENT = "owner"                   # id of the history database that these definitions are registered in
RELEASES_DOCUMENT = "releases"             # JSON: model -> models.release.Release; absent: nothing was released
ACCURACY_DOCUMENT = "accuracy"             # JSON: model -> version -> what its labels say of it, see ``Accuracy``
ACCURACY_STATE_DOCUMENT = "accuracy-state" # what that was counted from, and the offsets: see watch.accuracy

NOTHING_APPLIED = "no definitions have been applied here yet. Run: featureflow apply"
"""What a person is told where there is no mirror, and nothing that it was made from."""


class Accuracy(msgspec.Struct, frozen=True):
    """What labels say of one model version, in the document ``accuracy``. None where there is nothing to tell it from.

    ``auc_error``: what ``auc`` may be off by. ``until_us``: the newest label that counts. ``share``: of the scores that is followed now.
    """

    labels: int = 0
    auc: float | None = None
    auc_error: float | None = None
    base_rate: float | None = None
    calibration_error: float | None = None
    until_us: int = 0
    share: float = 1.0


def accuracy_of(document: bytes | None) -> dict[str, dict[str, Accuracy]]:
    """Model -> version -> accuracy, as the document has it; nothing where there is none, or another version of FeatureFlow wrote it."""
    try:
        return msgspec.json.decode(document or b"{}", type=dict[str, dict[str, Accuracy]])
    except msgspec.MsgspecError:
        return {}


def partitions_document(source: str) -> str:
    """Name of the meta document that holds a source's partition count, as decimal digits."""
    return f"partitions:{source}"


def verdict_document(model: str) -> str:
    """Name of the meta document that says which release of a model a scorer has ended: JSON of models.verdict.Verdict."""
    return f"ended-release:{model}"


def trial_name(model: str, number: int) -> str:
    """What scorers share of a release that has candidates, see ``OnlineStore.share``: documents of ``models.pooled``."""
    return f"trial:{model}:{number}"


def watched_document(model: str, source: str) -> str:
    """Name of the meta document that says from which offset on a source's events are scored by a model, by partition, as JSON."""
    return f"watched:{model}:{source}"


def watched_from(online: OnlineStore, model: str, source: str) -> dict[int, int]:
    """Partition -> where the first event is that is scored: what came after the first alert of the two was applied.

    A partition that is not here is younger, and scored from its beginning. Raises UnavailableError.
    """
    document = online.get_meta(watched_document(model, source))
    return {} if document is None else msgspec.json.decode(document, type=dict[int, int])


def mirrored(online: OnlineStore) -> spec.Project | None:
    """The applied project as the online store mirrors it; None before the first apply.

    Raises StateError where another version of FeatureFlow wrote it, UnavailableError.
    """
    document = online.get_meta(PROJECT_DOCUMENT)
    return None if document is None else project_of(document)


def buckets_of(online: OnlineStore) -> int:
    """How many buckets the project's states are in. Raises UnavailableError."""
    return int(online.get_meta(BUCKETS_DOCUMENT) or 1)


def partitions_of(online: OnlineStore, source: str) -> int | None:
    """How many partitions of the source readers know of; None where the mirror does not say. Raises UnavailableError."""
    document = online.get_meta(partitions_document(source))
    return None if document is None else int(document)


def project_of(document: bytes | str) -> spec.Project:
    """The project as JSON that was applied. Raises StateError where another version of FeatureFlow wrote it."""
    try:
        return msgspec.json.decode(document, type=spec.Project)
    except msgspec.MsgspecError as error:
        raise StateError(
            f"the definitions that are applied were written by another version of FeatureFlow ({error}). Run: featureflow apply"
        ) from error
