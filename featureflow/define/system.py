"""The streams that FeatureFlow itself writes: predictions and dead letters, and where alerts are declared, scores and alerts.
Ordinary sources, so that the log, the history writer and its tables need no special case for them.

Their topics and the consumer groups carry the project's name, so that projects may share a Kafka.
"""

from __future__ import annotations

from typing import Literal

from featureflow.define.spec import Field, Project, Source

DAY_US = 86_400_000_000

_PREDICTION = (
    Field(name="asked_at", type="datetime"),                   # q: the instant the features were finalized at
    Field(name="prediction_id", type="str"),
    Field(name="request_id", type="str"),
    Field(name="model", type="str"),
    Field(name="model_version", type="str"),
    Field(name="variant", type="str"),                         # fp32 | fp16 | int8 | w8 | w4 | ensemble
    Field(name="provider", type="str"),
    Field(name="score", type="float"),
    Field(name="entities", type="str", max_bytes=65_536),      # JSON object: join key -> id
    Field(name="context", type="str", max_bytes=65_536),       # JSON object: request inputs
    Field(name="views", type="str", max_bytes=65_536),         # JSON object: view -> version
    Field(name="applied", type="str", max_bytes=65_536),       # JSON object: view -> source -> partition -> offset
    Field(name="features", type="str", max_bytes=65_536),      # base64 of the feature float64s, little-endian, in view/feature order
    Field(name="statuses", type="str", max_bytes=65_536),      # one letter per feature: see kernel.finalize.Status
    Field(name="texts", type="str", nullable=True, max_bytes=65_536),  # JSON list of the features that are strings, in that order
    Field(name="degraded", type="str", max_bytes=65_536),      # JSON list of what was degraded
    Field(name="parts", type="str", nullable=True, max_bytes=65_536),  # JSON object: an ensemble's member@version or rule -> its value
    Field(name="assignment", type="str", nullable=True, max_bytes=512),  # JSON: release, arm; a shadow's ids end in .shadow
)

_DEAD_LETTER = (
    Field(name="noticed_at", type="datetime"),
    Field(name="position", type="str"),                        # "source/partition/offset/view": the identity; written at least once
    Field(name="source", type="str"),
    Field(name="partition", type="int"),
    Field(name="offset", type="int"),
    Field(name="view", type="str", nullable=True),             # set where one view refused the event (late)
    Field(name="reason", type="str"),                          # undecodable missing_field wrong_type oversized future late ...
    Field(name="detail", type="str", max_bytes=4_096),
    Field(name="value", type="str", max_bytes=65_536),         # base64 of the record's first bytes
)

_POSITION = (                                                  # of the event that was scored
    Field(name="source", type="str"),
    Field(name="partition", type="int"),
    Field(name="offset", type="int"),
)

_SCORE = (
    Field(name="event_time", type="datetime"),
    Field(name="scored_at", type="datetime"),                  # q: the instant the features were finalized at
    Field(name="model", type="str"),
    Field(name="model_version", type="str"),
    Field(name="variant", type="str"),
    Field(name="provider", type="str"),
    Field(name="score", type="float", nullable=True),          # null where the model gave none: ``degraded`` says why
    Field(name="entity", type="str"),                          # what it is averaged for
    Field(name="id", type="str"),
    *_POSITION,
    Field(name="features", type="str", nullable=True, max_bytes=65_536),  # JSON object: reference -> value; null where it was too long
    Field(name="degraded", type="str", max_bytes=65_536),      # JSON list of what was degraded
)

_ALERT = (
    Field(name="event_time", type="datetime"),                 # of the event whose score raised or cleared it
    Field(name="alert_id", type="str"),                        # the same however often it is delivered
    Field(name="rule", type="str"),                            # the alert as it is declared
    Field(name="level", type="str"),                           # raised | cleared
    Field(name="value", type="float"),                         # of the average, that event's score in it
    Field(name="threshold", type="float"),                     # that it came to, or fell below
    Field(name="score", type="float"),                         # of that event
    Field(name="model", type="str"),
    Field(name="model_version", type="str"),
    Field(name="entity", type="str"),
    Field(name="id", type="str"),
    *_POSITION,
    Field(name="features", type="str", nullable=True, max_bytes=65_536),
    Field(name="degraded", type="str", max_bytes=65_536),
)


def predictions(project: str) -> Source:
    """Every score that the project's scorers gave. ``project`` is its name.

    Their records have no key: nothing folds them, and a hash and a comparison each is more than a scorer has to spare.
    """
    return _source(project, "predictions", "asked_at", _PREDICTION, keyed_by=None)


def dead_letters(project: str) -> Source:
    """Every record that the project's workers refused."""
    return _source(project, "dead-letters", "noticed_at", _DEAD_LETTER, keyed_by="position")


def scores(project: str) -> Source:
    """The score of every event that is watched, by the id of the entity that it is averaged for, so that one partition has all of it."""
    return _source(project, "scores", "event_time", _SCORE, keyed_by="id")


def alerts(project: str) -> Source:
    """Each time that an alert was raised or cleared, once."""
    return _source(project, "alerts", "event_time", _ALERT, keyed_by="id")


def _source(project: str, name: str, time_field: str, fields: tuple[Field, ...], *, keyed_by: str | None) -> Source:
    return Source(
        name=f"featureflow_{name.replace('-', '_')}",
        topic=f"featureflow.{project}.{name}",
        time_field=time_field,
        disorder_us=DAY_US,
        future_us=DAY_US,
        keyed_by=keyed_by,
        fields=fields,
    )


def averages_topic(project: str) -> str:
    """Where the averages stand that alerts are told by: compacted, the newest of each entity in the partition that has its scores."""
    return f"featureflow.{project}.averages"


def system_sources(project: str, *, watched: bool = False) -> tuple[Source, ...]:
    """The events that FeatureFlow writes itself, on topics of the project's own: predictions and dead letters; scores and alerts where it
    is ``watched``."""
    return predictions(project), dead_letters(project), *((scores(project), alerts(project)) if watched else ())


def all_sources(project: Project) -> tuple[Source, ...]:
    """The project's own, and those that FeatureFlow writes for it."""
    return *project.sources, *system_sources(project.name, watched=bool(project.alerts))


def group(project: str, consumer: Literal["ingest", "history", "watch"]) -> str:
    """The consumer group where the settings name none."""
    return f"featureflow.{project}.{consumer}"
