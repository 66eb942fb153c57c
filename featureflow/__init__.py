"""The names that a definitions file imports.

from featureflow import Entity, Event, Field, Model, Request, View, count, key, mean
"""

from featureflow.define.aggregation import (
    count,
    last,
    last_n,
    max,
    mean,
    min,
    rate,
    stddev,
    sum,
    time_since_last,
    variance,
)
from featureflow.define.entity import Entity
from featureflow.define.event import Event
from featureflow.define.expression import abs, is_null, log1p, maximum, minimum
from featureflow.define.field import Field, key
from featureflow.define.model import Model
from featureflow.define.request import Request
from featureflow.define.vector import Vector
from featureflow.define.view import View
from featureflow.define.window import hopping, lifetime, session, tumbling

__all__ = [
    "Entity",
    "Event",
    "Field",
    "Model",
    "Request",
    "Vector",
    "View",
    "abs",
    "count",
    "hopping",
    "is_null",
    "key",
    "last",
    "last_n",
    "lifetime",
    "log1p",
    "max",
    "maximum",
    "mean",
    "min",
    "minimum",
    "rate",
    "session",
    "stddev",
    "sum",
    "time_since_last",
    "tumbling",
    "variance",
]
