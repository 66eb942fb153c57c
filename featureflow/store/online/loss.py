"""What is said when state was lost, and what to do about it."""

from __future__ import annotations

from featureflow.errors import OffsetMissingError, StateError
from featureflow.store.keys import Bucket, view_of
from featureflow.store.log.loss import created_again
from featureflow.store.online import record
from featureflow.store.online.protocol import Commit, OffsetRecord


def where(source: str, partition: int, bucket: Bucket) -> str:
    """A partition, and the bucket where there are several, as messages name the place."""
    return f"{source}/{partition}" + (f", bucket {bucket}" if bucket.of > 1 else "")


def commit_of(commit: Commit) -> str:
    """A commit's partition, and which bucket or how many."""
    first, *others = {advance.bucket: None for advance in commit.advances}
    return f"{commit.source}/{commit.partition}, {len(others) + 1} buckets" if others else where(commit.source, commit.partition, first)


def absent(view_id: str, place: str) -> str:
    """There is no offset record: whoever finds that cannot tell a view that was never applied from one that was lost."""
    return (
        f"the offset of view {view_id} on {place} is not in the online store: the view was never applied, "
        f"or the store was emptied. Run `featureflow apply` for a new view, `{rebuild(view_id)}` for a lost one"
    )


def gone(view_id: str, place: str) -> str:
    """Of an offset record that is known to have been made."""
    return f"the offset of view {view_id} on {place} was made and is gone: the online store has lost state. Run `{rebuild(view_id)}`"


def dirty(view_id: str, place: str, stored: OffsetRecord) -> str:
    """A script broke between its first write and its last: ``stored`` is the record that says so."""
    return (
        f"a commit of view {view_id} on {place} broke between offset {stored.offset} and {stored.dirty}: "
        f"its state cannot be trusted. Run `{rebuild(view_id)}`"
    )


def dropped(view_id: str, place: str) -> str:
    """The offset record is marked by a rebuild, which is under way or was cut short."""
    return (
        f"view {view_id} on {place} is being rebuilt: its state goes, and then it begins anew. "
        f"Where that was cut short, run `{rebuild(view_id)}` again"
    )


def unknown_format(view_id: str, place: str, value: bytes) -> str:
    """``value``: the bytes that stand where an offset record should."""
    return (
        f"the offset of view {view_id} on {place} has a format that this version of FeatureFlow does not know "
        f"({value[:8]!r}): an older version wrote it, or something else writes to this database. Run `{rebuild(view_id)}`"
    )


def decoded(view_id: str, place: str, value: bytes) -> OffsetRecord:
    """The record as stored. Raises OffsetMissingError where it is none that this version knows."""
    try:
        return record.decode(value)
    except StateError as error:
        raise OffsetMissingError(unknown_format(view_id, place, value)) from error


def other_topic(view_id: str, place: str, stored: OffsetRecord, topic_id: str) -> str:
    """``topic_id``: of the topic that the log has."""
    return created_again(f"the topic of {place}, which view {view_id} has folded,", topic_id, stored.topic_id)


def emptied(what: str) -> str:
    """``what`` is applied and is not there: no view's fault, so all are to be folded again."""
    return (
        f"the online store does not have {what} any more: it was emptied, or online.url points at another one. "
        "Run `featureflow rebuild`, which folds every view again"
    )


def other_kind(key: bytes, problem: str) -> str:
    """``key`` holds a value of another Redis type, as ``problem`` says."""
    return f"{key.decode()} {problem}: something else writes to this database. Run `{rebuild(view_of(key))}`"


def not_dropped(view_id: str, place: str, for_good: bool) -> str:
    """``for_good``: the view is retired, so that it is not folded again. ``place``: the server."""
    command = "featureflow apply --prune" if for_good else rebuild(view_id)
    return (
        f"view {view_id} cannot be dropped from the online store at {place} now: slots move from node to node, a primary failed over, or "
        f"something writes its keys, so some may have been passed by. Once that is over, run `{command}`"
    )


def rebuild(view_id: str) -> str:
    """The command that folds a view again from the beginning."""
    return f"featureflow rebuild {view_id.partition('@')[0]}"
