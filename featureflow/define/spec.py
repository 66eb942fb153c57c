"""What a definitions file means, as plain values.

The classes that a user writes (``entity``, ``event``, ``view``, ``model`` beside this file) compile to these; every other
room reads only these. They are immutable, compare by value, and travel as JSON through the registry.

Time is int64 microseconds. A feature's full reference is ``view:feature``, its name ``aggregation_window``
(``delay_1h``, ``delay_tumbling_1d``, ``delay_hopping_10m_1m``, ``delay_session_30m``, ``delay_lifetime``) or just
``aggregation`` where no window was written (``last_n``).
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Literal as L

import msgspec

Format = L["json", "avro", "protobuf"]

DEFAULT_PROJECT = "default"              # the name of a project that has none, on servers of its own

FieldType = L["str", "int", "float", "bool", "datetime", "vector"]
WindowKind = L["sliding", "tumbling", "hopping", "session", "lifetime"]


class _Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    pass


# -- expressions -------------------------------------------------------------------------------------------------------

class Column(msgspec.Struct, frozen=True, tag="column"):
    """A named column: an event's field, a feature's reference ``view:feature``, or a request input ``request:field``."""

    name: str


class Literal(msgspec.Struct, frozen=True, tag="literal"):
    """A constant."""

    value: bool | int | float | str


class Call(msgspec.Struct, frozen=True, tag="call"):
    """An operator over expressions. ``op`` is a key of ``kernel.expression.OPERATORS``:

    add sub mul div neg abs log1p minimum maximum · eq ne lt le gt ge · and or not · is_null · when; of sequences
    spread diff · each_eq each_ne each_lt each_le each_gt each_ge · each_and each_or each_not each_is_null · seq_len seq_sum seq_mean
    seq_min seq_max
    """

    op: str
    args: tuple[Column | Literal | Call, ...]


Expr = Column | Literal | Call


def columns_of(expr: Expr | None) -> tuple[str, ...]:
    """Names of the columns that an expression reads, in order of first appearance."""
    match expr:
        case None | Literal():
            return ()
        case Column(name):
            return (name,)
        case Call(_, args):
            return tuple(dict.fromkeys(name for arg in args for name in columns_of(arg)))


# -- what happens ------------------------------------------------------------------------------------------------------

class Entity(_Value, frozen=True):
    """What features are of, by its id."""

    name: str                              # "carrier"
    type: L["str", "int"]


class Field(_Value, frozen=True):
    """One field of an event or of a request."""

    name: str
    type: FieldType
    nullable: bool = False
    entity: str | None = None              # the entity whose id this field holds
    max_bytes: int = 1024                  # strings only; longer is a dead letter
    categories: tuple[str, ...] = ()       # strings only; the values that it may have, sorted; none: any
    size: int = 1                          # vectors only; how many numbers

    @property
    def text(self) -> str:
        """The type as a definitions file has it, in one spelling: it is part of the meaning of the views that read the field."""
        match self:
            case Field(type="vector"):
                text = f"Vector[{self.size}]"
            case Field(categories=[_, *_]):
                text = f"Literal[{', '.join(map(repr, self.categories))}]"
            case _:
                text = self.type
        return text + " | None" * self.nullable


class Source(_Value, frozen=True):
    """A typed stream of events on one topic."""

    name: str                              # "departure"
    topic: str
    time_field: str                        # a non-null datetime field: the event time
    disorder_us: int                       # how late an event may be
    future_us: int                         # tolerance beyond the broker's timestamp (see kernel.accept)
    fields: tuple[Field, ...]
    keyed_by: str | None = None            # the field that is the record's key, if the producer promises one
    dedupe: str | None = None              # the field by which the same event is told that was written twice (see kernel.dedupe)
    within_us: int = 0                     # the horizon of dedupe, in event time
    format: Format = "json"                # of the records' values; another than JSON with a schema registry

    @cached_property
    def by_name(self) -> dict[str, Field]:
        """Field name -> field."""
        return {field.name: field for field in self.fields}


# -- what is computed from it ------------------------------------------------------------------------------------------

class Window(_Value, frozen=True, omit_defaults=True):
    """What has its default is left out of JSON, and so of the versions that were made before there was a field for it."""

    kind: WindowKind
    length_us: int                         # 0 for lifetime; how far back a session may reach
    text: str                              # as written: "1h"; a session's gap; "lifetime"
    hop_us: int = 0                        # hopping: it moves in steps of so much, which divides its length
    offset_us: int = 0                     # tumbling, hopping: it begins at the offset + a multiple of its length or hop
    gap_us: int = 0                        # session: a longer pause ends it
    exact: bool = False                    # cut at the microsecond: its events are kept one by one

    @property
    def suffix(self) -> str:
        """What a feature's name ends in: ``1h``, ``tumbling_1d``, ``hopping_10m_1m``, ``tumbling_1d_from_6h``, ``session_30m``."""
        kind = "" if self.kind in ("sliding", "lifetime") else f"{self.kind}_"
        hop = f"_{spelled(self.hop_us)}" if self.hop_us else ""
        offset = f"_from_{spelled(self.offset_us)}" if self.offset_us else ""
        return f"{kind}{self.text}{hop}{offset}"


def spelled(us: int) -> str:
    """A whole number of milliseconds as a duration, in the largest unit that holds it: ``90m``."""
    sizes = {"d": 86_400_000_000, "h": 3_600_000_000, "m": 60_000_000, "s": 1_000_000, "ms": 1_000}
    return next(f"{us // size}{unit}" for unit, size in sizes.items() if us % size == 0)


class Payload(msgspec.Struct, frozen=True):
    """One value that an entry keeps of its event. ``width`` 0: a number; else a string of at most so many bytes of UTF-8."""

    value: Expr
    width: int = 0


class Aggregation(_Value, frozen=True):
    """One aggregation of one source over some windows: one feature per window."""

    name: str                              # "delay"
    op: str                                # a key of ``kernel.aggregation.table.AGGREGATIONS``
    source: str
    value: Expr | None                     # over the source's fields; None: of the events themselves
    where: Expr | None                     # an event counts iff this is true (null is not true)
    windows: tuple[Window, ...]
    bare: bool = False                     # no window was written (last_n, decay): the feature is named by the aggregation alone
    size: int = 1                          # values per feature: n of last_n
    default: float | str | None = None     # value when no event counts; None is undefined (NaN)
    per_us: int = 0                        # rate: the unit of time
    half_life_us: int = 0                  # decay: an event of so long ago weighs half
    width: int = 0                         # the values are strings of at most so many bytes of UTF-8; 0: numbers
    by: Expr | None = None                 # min_by, max_by: what is compared
    entry: tuple[Payload, ...] = ()        # last_n of several values at once: all of them, ``value`` is one
    q: float = -1.0                        # approx_quantile: which one, from 0 to 1; -1: none
    error: float = 0.0                     # approx_*: what the sketch may be off by, as each states it
    vector: int = 0                        # the value is a vector of so many numbers; 0: it is none

    @property
    def exprs(self) -> tuple[Expr | None, ...]:
        """Everything over the source's fields that it evaluates."""
        return self.value, self.where, self.by, *(payload.value for payload in self.entry)

    def feature_name(self, window: Window) -> str:
        """The feature's name in its view: ``bare`` the aggregation's own, else with its window, as in ``rides_1h``."""
        return self.name if self.bare else f"{self.name}_{window.suffix}"


class Feature(_Value, frozen=True):
    """One column of a view's answer, or ``size`` columns: of ``last_n``, newest first, and of a vector."""

    name: str
    view: str
    aggregation: Aggregation
    window: Window

    @property
    def reference(self) -> str:
        """As requests, models and training sets name it: ``view:feature``."""
        return f"{self.view}:{self.name}"

    @property
    def size(self) -> int:
        """How many values it has."""
        return self.aggregation.vector or self.aggregation.size

    @property
    def is_text(self) -> bool:
        """Whether its values are strings."""
        return self.aggregation.width > 0

    @property
    def numbers(self) -> int:
        """How many columns of a view's numbers it takes: none where its values are strings."""
        return 0 if self.is_text else self.size

    @property
    def is_sequence(self) -> bool:
        """Whether it is a list, even of one value."""
        return self.aggregation.op in ("last_n", "top_k", "top_k_count") or self.aggregation.vector > 0


class View(_Value, frozen=True):
    """Aggregations of one entity, from one or several sources."""

    name: str                              # "carrier_now"
    entity: str
    join_key: str                          # how a request names the id: the role's field name, else the entity's name
    keys: dict[str, str]                   # source name -> the event field that holds this view's entity id
    aggregations: tuple[Aggregation, ...]
    ttl_us: int | None = None              # lifetime windows and last_n: event time after which a value is expired; None: never
    publish: bool = False                  # its values are kept beside its state too, for readers that are not ours
    version: str = ""                      # hash of the meaning; set by ``define.version``

    @property
    def id(self) -> str:
        """``name@version``: of equal meaning where it is equal."""
        return f"{self.name}@{self.version}"

    @cached_property
    def features(self) -> tuple[Feature, ...]:
        """One for each aggregation and window, in the order of the file."""
        return tuple(
            Feature(name=a.feature_name(w), view=self.name, aggregation=a, window=w) for a in self.aggregations for w in a.windows
        )

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the events that it reads."""
        return tuple(self.keys)

    @cached_property
    def texts(self) -> tuple[int, ...]:
        """Which features have strings for values."""
        return tuple(i for i, feature in enumerate(self.features) if feature.is_text)

    @cached_property
    def width(self) -> int:
        """Columns of its numbers."""
        return sum(feature.numbers for feature in self.features)

    @cached_property
    def spans(self) -> tuple[slice, ...]:
        """Where each feature's values stand among the view's numbers; an empty slice where they are strings."""
        ends = list(accumulate((feature.numbers for feature in self.features), initial=0))
        return tuple(slice(begin, end) for begin, end in pairwise(ends))


class Request(_Value, frozen=True):
    """What a caller sends beside entity ids."""

    name: str                              # "ask"
    fields: tuple[Field, ...]


class Input(_Value, frozen=True):
    """One named input of a model; ``size`` columns."""

    name: str                              # "trend", "origin_now:worst_3h", "hour"
    expr: Expr                             # Column names are feature references or ``request:field``
    size: int = 1
    default: float | None = None           # used where the expression is undefined; None: left to the model's impute transform


class Rule(_Value, frozen=True):
    """A named expression of an ensemble: a number, or a condition, which is 1 where it holds and 0 where it does not."""

    name: str
    expr: Expr


class Ensemble(_Value, frozen=True):
    """Models and rules that answer as one model.

    Its ``Model`` has the inputs of each member, called ``member.input``, one member after the other; then one for each expression over
    features and request fields alone that its rules and its score are calculated from. The columns of those are the names of such
    inputs, ``member.score`` and ``rule.name``.
    """

    members: tuple[str, ...]               # names of models, in the order of their inputs
    rules: tuple[Rule, ...]
    score: Expr

    @cached_property
    def version(self) -> str:
        """The first 10 hex digits of the SHA-256 of what it calculates."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()[:10]


def score_column(model: str) -> str:
    """What an ensemble's expressions call a member's score."""
    return f"{model}.score"


class Tensor(_Value, frozen=True):
    """One tensor that a model's file takes by name, and the inputs that it is made of (see models.tensors)."""

    name: str
    inputs: tuple[str, ...]


class Model(_Value, frozen=True, omit_defaults=True):
    """What a model is given, and what it may cost."""

    name: str
    inputs: tuple[Input, ...]
    deadline_us: int
    drift: float                           # largest |score - FP32 score| a variant may show
    when_missing: L["default", "refuse"] = "default"   # state lost or unreachable: answer with defaults (and say so), or 503
    ensemble: Ensemble | None = None       # what its score is calculated from; None: an ONNX file says
    tensors: tuple[Tensor, ...] = ()       # none: the file takes one matrix of all inputs, in their order
    max_age_us: int = 0                    # state that was read so long ago may be taken without reading it again
    stale_for_us: int = 0                  # ... and, marked stale, where the store does not answer
    cache_scores: int = 0                  # of so many different inputs the score is remembered, for as long as one version answers


class Label(_Value, frozen=True):
    """Events that say how a model's scores turned out: a score's is the first of its entity from its instant on, ``within_us`` at most."""

    name: str
    model: str
    source: str
    entity: str                            # the join key by which a score names the entity
    field: str                             # of the source: holds the id
    value: Expr                            # over the source's fields: true or false; null is no label
    within_us: int
    over_us: int                           # how far back accuracy looks, by the time of the labels
    absent: bool | None = None             # what a score without a label was; None: it does not count


class Alert(_Value, frozen=True):
    """What a model's scores of a source come to, for each entity, before somebody is told."""

    name: str
    model: str
    source: str
    entity: str
    field: str                             # of the source: holds the id of the entity whose scores are averaged
    ids: dict[str, str]                    # the model's join key -> the source's field that holds that id
    context: dict[str, Expr]               # ``request:field`` that the model reads -> an expression over the source's fields
    average: float                         # weight of the newest score in the exponential moving average
    above: float                           # raised where the average is at least this
    until: float                           # cleared where it is below this


class Project(_Value, frozen=True):
    """Everything one definitions file says, and the name under which it shares servers with other projects."""

    name: str = DEFAULT_PROJECT            # from the setting project.name
    entities: tuple[Entity, ...] = ()
    sources: tuple[Source, ...] = ()
    views: tuple[View, ...] = ()
    requests: tuple[Request, ...] = ()
    models: tuple[Model, ...] = ()
    labels: tuple[Label, ...] = ()
    alerts: tuple[Alert, ...] = ()

    def source(self, name: str) -> Source:
        """Raises StopIteration where there is none of that name."""
        return next(s for s in self.sources if s.name == name)

    def view(self, name: str) -> View:
        """Raises StopIteration where there is none of that name."""
        return next(v for v in self.views if v.name == name)

    def model(self, name: str) -> Model:
        """Raises StopIteration where there is none of that name."""
        return next(m for m in self.models if m.name == name)

    def views_of(self, source: str) -> tuple[View, ...]:
        """Those that read the source."""
        return tuple(v for v in self.views if source in v.keys)


def is_keyed(view: View, source: Source) -> bool:
    """Whether each entity of the view lives in one partition of the source, so that one state key holds all of it."""
    return source.keyed_by is not None and view.keys[source.name] == source.keyed_by
