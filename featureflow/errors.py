"""Every error that FeatureFlow raises on purpose.

    FeatureFlowError
    ├── DefinitionError          a definitions file says something that cannot be computed
    ├── SettingsError            featureflow.toml or the environment
    ├── UnavailableError         a server does not answer; names the setting that points to it
    │   ├── BodiesFullError      this process holds as many bytes of requests as it may
    │   ├── BodiesShareError     ... or as many of one caller's
    │   ├── CircuitOpenError     it did not lately, and is not asked for a moment
    │   ├── UnknownOutcomeError  a write was sent, its reply was lost
    │   ├── HistoryAwayError     what the log has deleted cannot be read from history now; all else goes on
    │   └── SchemasAwayError     the schema registry is asked again after a while; sources that do not need it go on
    ├── StateError               the online state is not what the definitions say
    │   ├── OffsetMissingError   a partition's offset record is absent, dirty, of another topic or of another format
    │   └── BeingRebuiltError    a rebuild has yet to make a view's offset records anew
    ├── LogError                 the event log cannot be read from where it must be
    │   ├── OffsetOutOfRangeError
    │   └── FencedError          another process has moved on with what this one read
    ├── HistoryError
    │   ├── OffsetConflictError  another history writer moved the offset
    │   └── TablesMissingError   nothing was applied to this database yet, or an older version was
    ├── ModelError               a model cannot be loaded, is corrupted, or gave a bad answer
    │   └── DriftError           a quantized variant is too far from FP32
    ├── VectorIndexError         vectors cannot be indexed, or an index is not what was added
    └── RequestError             the caller's request; becomes problem+json

Each message names the thing, the place, and what to do.
"""

from __future__ import annotations


class FeatureFlowError(Exception):
    """Base of all errors raised by FeatureFlow on purpose."""


class DefinitionError(FeatureFlowError):
    """A definition cannot be computed.

    The text reads ``FILE:LINE: WHAT IS WRONG. Write: WHAT TO WRITE``.
    """

    def __init__(self, problem: str, *, write: str, file: str = "", line: int = 0) -> None:
        self.problem, self.write, self.file, self.line = problem, write, file, line
        place = f"{file}:{line}: " if file else ""
        super().__init__(f"{place}{problem}\n  Write: {write}")


class SettingsError(FeatureFlowError):
    """A setting is absent, malformed, or points at what is another project's."""


class UnavailableError(FeatureFlowError):
    """A server does not answer. The message names the setting that points to it."""


class BodiesFullError(UnavailableError):
    """A scorer holds as many bytes of requests that are not answered yet as it may."""


class BodiesShareError(UnavailableError):
    """A scorer holds as many bytes of one caller's requests that are not answered yet as it may of one."""


class CircuitOpenError(UnavailableError):
    """A server did not answer lately, or has as many calls under way as it may, and is not asked now."""


class UnknownOutcomeError(UnavailableError):
    """A write was sent and its reply was lost: it may or may not have been applied."""


class HistoryAwayError(UnavailableError):
    """What the log has deleted cannot be read from history now. Only the views that need it wait."""


class SchemasAwayError(UnavailableError):
    """A schema registry does not answer, and is asked again in ``wait_us``. Only the source whose records need it waits."""

    def __init__(self, problem: str, wait_us: int) -> None:
        self.wait_us = wait_us
        super().__init__(problem)


class StateError(FeatureFlowError):
    """The online state is not what the applied definitions describe."""


class OffsetMissingError(StateError):
    """An offset record is absent, dirty, of another topic or of another format: state was lost."""


class BeingRebuiltError(StateError):
    """A view's state is being dropped, and its offset records are yet to be made anew: a rebuild runs, or was cut short."""


class LogError(FeatureFlowError):
    """The event log cannot be read or written as asked."""


class OffsetOutOfRangeError(LogError):
    """The stored offset is no longer in the log: events were deleted before they were folded."""


class FencedError(LogError):
    """Others have these partitions now, or have moved on from where this one began. Nothing was written: ask where the group stands."""


class HistoryError(FeatureFlowError):
    """The history store refused a read or a write."""


class OffsetConflictError(HistoryError):
    """Another history writer has moved this partition's offset; nothing was written."""


class TablesMissingError(HistoryError):
    """The database lacks tables that ``featureflow apply`` makes."""


class ModelError(FeatureFlowError):
    """A model cannot be loaded or gave an answer that must not be served."""


class DriftError(ModelError):
    """A quantized variant differs from FP32 by more than the declared tolerance."""


class VectorIndexError(FeatureFlowError):
    """Vectors cannot be indexed, or the files of an index are not those that were added."""


class RequestError(FeatureFlowError):
    """The caller's request cannot be answered as it stands.

    ``status`` is the HTTP status (4xx), ``title`` a short constant phrase, ``detail`` what to change.
    """

    def __init__(self, title: str, detail: str, *, status: int = 400) -> None:
        self.title, self.detail, self.status = title, detail, status
        super().__init__(f"{title}: {detail}")
