"""The names that a definitions file imports.

from featureflow import Entity, Event, Field, Model, Request, View, count, key, mean
"""

from featureflow.define.aggregation import (
    count,
    max,
    mean,
    min,
    rate,
    stddev,
    sum,
    time_since_last,
    variance,
)
from featureflow.define.alert import Alert
from featureflow.define.decayed import decayed_count, decayed_mean, decayed_sum
from featureflow.define.ensemble import Ensemble
from featureflow.define.entity import Entity
from featureflow.define.event import Event
from featureflow.define.field import Field, key
from featureflow.define.frequent import top_k
from featureflow.define.function import abs, is_null, log1p, maximum, minimum, when
from featureflow.define.kept import first, last, last_n, max_by, min_by
from featureflow.define.label import Label
from featureflow.define.model import Model
from featureflow.define.request import Request
from featureflow.define.sequence import diff, len
from featureflow.define.sketch import approx_distinct, approx_quantile
from featureflow.define.vector import Vector
from featureflow.define.view import View
from featureflow.define.window import hopping, lifetime, session, tumbling

__all__ = [
    "Alert",
    "Ensemble",
    "Entity",
    "Event",
    "Field",
    "Label",
    "Model",
    "Request",
    "Vector",
    "View",
    "abs",
    "approx_distinct",
    "approx_quantile",
    "count",
    "decayed_count",
    "decayed_mean",
    "decayed_sum",
    "diff",
    "first",
    "hopping",
    "is_null",
    "key",
    "last",
    "last_n",
    "len",
    "lifetime",
    "log1p",
    "max",
    "max_by",
    "maximum",
    "mean",
    "min",
    "min_by",
    "minimum",
    "rate",
    "session",
    "stddev",
    "sum",
    "time_since_last",
    "top_k",
    "tumbling",
    "variance",
    "when",
]
