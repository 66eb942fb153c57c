"""The two streams that FeatureFlow itself writes. Ordinary sources, so that the log, the history writer and its tables
need no special case for them.

Their topics and the consumer groups carry the project's name, so that projects may share a Kafka.
"""

from __future__ import annotations

from typing import Literal

from featureflow.define.spec import Field, Source

DAY_US = 86_400_000_000

_PREDICTION = (
    Field(name="asked_at", type="datetime"),                   # q: the instant the features were finalized at
    Field(name="prediction_id", type="str"),
    Field(name="request_id", type="str"),
    Field(name="model", type="str"),
    Field(name="model_version", type="str"),
    Field(name="variant", type="str"),                         # fp32 | fp16 | int8
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


def predictions(project: str) -> Source:
    """Every score that the project's scorers gave. ``project`` is its name.

    Their records have no key: nothing folds them, and a hash and a comparison each is more than a scorer has to spare.
    """
    return Source(
        name="featureflow_predictions",
        topic=f"featureflow.{project}.predictions",
        time_field="asked_at",
        disorder_us=DAY_US,
        future_us=DAY_US,
        fields=_PREDICTION,
    )


def dead_letters(project: str) -> Source:
    """Every record that the project's workers refused."""
    return Source(
        name="featureflow_dead_letters",
        topic=f"featureflow.{project}.dead-letters",
        time_field="noticed_at",
        disorder_us=DAY_US,
        future_us=DAY_US,
        keyed_by="position",
        fields=_DEAD_LETTER,
    )


def system_sources(project: str) -> tuple[Source, Source]:
    """The events that FeatureFlow writes itself: predictions and dead letters, on topics of the project's own."""
    return predictions(project), dead_letters(project)


def group(project: str, consumer: Literal["ingest", "history"]) -> str:
    """The consumer group where the settings name none."""
    return f"featureflow.{project}.{consumer}"
