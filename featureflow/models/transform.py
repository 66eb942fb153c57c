"""Fitted transforms: frozen values, applied by the same code in training and in serving.

Each input column goes through the same steps in the same order, each step there or not:

    1. indicator   1.0 where the value is undefined (NaN), else 0.0, as a column of its own
    2. impute      an undefined value becomes the fitted one
    3. clip        to the fitted bounds
    4. log1p       sign(x) * log1p(|x|): defined for every x, odd, compresses heavy tails on both sides
    5. scale       (x - mean) / deviation, of what the steps before gave; or
       one-hot     one column per fitted category, then one for everything else (an undefined value too, where nothing imputes it)

A row's result depends on that row alone, to the bit: not on the other rows of its batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from featureflow.errors import ModelError

CATEGORIES = 1_000                         # of one column: more is not a category but an id
Float64 = NDArray[np.float64]
Float32 = NDArray[np.float32]


class NamedInput(Protocol):
    """What ``fit`` needs to know of an input: ``define.spec.Input`` and ``models.manifest.ModelInput`` are such."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int: ...


class Steps(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to fit for one input, for each of its columns alike.

    impute: ``mean`` or ``median`` of the defined values, a number, or None (an undefined value is then refused at scoring).
    clip: (low, high) shares of the defined values, 0..1, whose quantiles become the bounds; or None.
    one_hot: the ``categories`` most frequent values; excludes log1p, scale and clip.
    """

    impute: Literal["mean", "median"] | float | None = "mean"
    indicator: bool = False
    clip: tuple[float, float] | None = None
    log1p: bool = False
    scale: bool = True
    one_hot: bool = False
    categories: int = 32

    def __post_init__(self) -> None:
        if self.one_hot and (self.clip or self.log1p):
            raise ModelError("one_hot takes the values as they are: leave out clip and log1p, or one_hot")
        if not 1 <= self.categories <= CATEGORIES:
            raise ModelError(f"categories is {self.categories}; write 1 to {CATEGORIES}")
        if self.clip and not 0 <= self.clip[0] < self.clip[1] <= 1:
            raise ModelError(f"clip is {self.clip}; write two shares between 0 and 1, the lower first, such as (0.001, 0.999)")
        if isinstance(self.impute, float) and not math.isfinite(self.impute):
            raise ModelError(f"impute is {self.impute}; write a finite number, 'mean', 'median' or None")


class Column(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The fitted values of one input column; an absent step is None (False)."""

    indicator: bool = False
    impute: float | None = None
    low: float | None = None
    high: float | None = None
    log1p: bool = False
    mean: float | None = None
    deviation: float | None = None         # > 0
    categories: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        numbers = [v for v in (self.impute, self.low, self.high, self.mean, self.deviation, *(self.categories or ())) if v is not None]
        if not all(map(math.isfinite, numbers)):
            raise ModelError("a transform holds a value that is not finite: fit it on values below 1e300 in size")
        if (self.mean is None) != (self.deviation is None) or (self.deviation is not None and self.deviation <= 0):
            raise ModelError("a scaled column needs a mean and a deviation above 0")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ModelError(f"a column is clipped to {self.low} at least and {self.high} at most: the lower bound goes first")
        if (self.categories is not None and len(set(self.categories)) != len(self.categories)) or len(self.categories or ()) > CATEGORIES:
            raise ModelError(f"a one-hot column has each category once, and at most {CATEGORIES}")
        if self.categories is not None and (self.mean is not None or not self.categories):
            raise ModelError("a one-hot column has at least one category and is not scaled")

    @property
    def width(self) -> int:
        """Columns that this one becomes."""
        return self.indicator + (1 if self.categories is None else len(self.categories) + 1)


@dataclass(frozen=True)
class _Arrays:
    """The columns' values side by side, so that ``apply`` is a few numpy calls however many columns there are."""

    fill: Float64
    low: Float64
    high: Float64
    mean: Float64
    deviation: Float64
    log1p: NDArray[np.intp]
    clips: bool
    scales: bool
    source: NDArray[np.intp] | None        # (width'): the input column behind each output column; None: one to one
    indicators: NDArray[np.intp]           # output columns that say that the source is undefined
    known: NDArray[np.intp]                # output columns that stand for one category
    categories: Float64                    # the category of each of ``known``
    unknown: NDArray[np.intp]              # output columns that stand for every other value
    firsts: NDArray[np.intp]               # where each one-hot column's categories begin in ``known``


class Transforms(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """One ``Column`` per input column, in input order."""

    columns: tuple[Column, ...]

    @property
    def width_in(self) -> int:
        """Columns of the matrix that it is given."""
        return len(self.columns)

    @cached_property
    def width_out(self) -> int:
        """Columns of the matrix that the model is given."""
        return sum(column.width for column in self.columns)

    @cached_property
    def sources(self) -> tuple[int, ...]:
        """The input column behind each output column."""
        return tuple(i for i, column in enumerate(self.columns) for _ in range(column.width))

    def apply(self, matrix: Float64) -> Float32:
        """float64 (n, width_in) -> float32 (n, width_out), C-contiguous.

        NaN stays where the column has no impute, ±inf where it has no clip, and a value beyond float32 becomes ±inf: the model
        refuses such a row (``LoadedModel.score``), this function does not. Raises ModelError for a matrix of another width.
        """
        if matrix.ndim != 2 or matrix.shape[1] != self.width_in:
            raise ModelError(f"the matrix has shape {matrix.shape}; the transforms take (rows, {self.width_in})")
        a = self._arrays
        undefined = np.isnan(matrix)
        x = np.where(undefined, a.fill, matrix)
        if a.clips:
            np.clip(x, a.low, a.high, out=x)
        if len(a.log1p):
            part = x[:, a.log1p]
            x[:, a.log1p] = np.copysign(np.log1p(np.abs(part)), part)
        raw = x
        with np.errstate(over="ignore"):
            if a.scales:
                x = (x - a.mean) / a.deviation
            if a.source is None:
                return x.astype(np.float32, order="C")
            out = x[:, a.source].astype(np.float32, order="C")
        if len(a.indicators):
            out[:, a.indicators] = undefined[:, a.source[a.indicators]]
        if len(a.known):
            equal = raw[:, a.source[a.known]] == a.categories
            out[:, a.known] = equal
            out[:, a.unknown] = ~np.logical_or.reduceat(equal, a.firsts, axis=1)
        return out

    @cached_property
    def _arrays(self) -> _Arrays:
        columns = self.columns

        def values(name: str, absent: float) -> Float64:
            return np.array([absent if (v := getattr(c, name)) is None else v for c in columns], np.float64)

        indicators: list[int] = []
        known: list[int] = []
        unknown: list[int] = []
        firsts: list[int] = []
        categories: list[float] = []
        at = 0
        for column in columns:
            if column.indicator:
                indicators.append(at)
                at += 1
            if column.categories is None:
                at += 1
                continue
            firsts.append(len(known))
            known += range(at, at + len(column.categories))
            categories += column.categories
            at += len(column.categories)
            unknown.append(at)
            at += 1

        def places(given: list[int]) -> NDArray[np.intp]:
            return np.array(given, np.intp)

        return _Arrays(
            fill=values("impute", math.nan), low=values("low", -math.inf), high=values("high", math.inf),
            mean=values("mean", 0.0), deviation=values("deviation", 1.0),
            log1p=places([i for i, c in enumerate(columns) if c.log1p]),
            clips=any(c.low is not None or c.high is not None for c in columns), scales=any(c.mean is not None for c in columns),
            source=None if self.sources == tuple(range(len(columns))) and not indicators and not unknown else places(list(self.sources)),
            indicators=places(indicators), known=places(known), categories=np.array(categories, np.float64),
            unknown=places(unknown), firsts=places(firsts),
        )


def identity(width: int) -> Transforms:
    """Transforms that pass ``width`` columns on as float32."""
    return Transforms(tuple(Column() for _ in range(width)))


def fit(
    matrix: Float64, inputs: Sequence[NamedInput], steps: Mapping[str, Steps] | None = None, *, otherwise: Steps | None = None
) -> Transforms:
    """Fit on the training split: float64 (n, sum of the inputs' sizes), NaN where undefined.

    steps: by input name; an input that is not there gets ``otherwise`` (default: impute the mean, then scale).

    Raises ModelError naming the input for ±inf, for steps of an unknown input, for a mean or median of a column that is never
    defined, and for another width.
    """
    steps = steps or {}
    names = [item.name for item in inputs for _ in range(item.size)]
    if unknown := sorted(set(steps) - set(names)):
        raise ModelError(f"steps are given for {', '.join(unknown)}; the model's inputs are {', '.join(dict.fromkeys(names))}")
    if matrix.ndim != 2 or matrix.shape[1] != len(names) or not len(matrix):
        raise ModelError(f"the training matrix has shape {matrix.shape}; give (rows, {len(names)}) with at least one row")
    fallback = otherwise or Steps()
    return Transforms(tuple(
        _fit(np.ascontiguousarray(matrix[:, i], np.float64), name, steps.get(name, fallback)) for i, name in enumerate(names)
    ))


def _fit(column: Float64, name: str, steps: Steps) -> Column:
    defined = column[~np.isnan(column)]
    if not np.isfinite(defined).all():
        raise ModelError(f"input {name} holds an infinite value in the training matrix; give its input a default, or leave such rows out")
    impute: float | None
    if isinstance(steps.impute, str):
        if not len(defined):
            raise ModelError(
                f"input {name} has no defined value in {len(column)} training rows, so it has no {steps.impute}; "
                "impute a number, or leave the input out"
            )
        impute = float(defined.mean() if steps.impute == "mean" else np.median(defined))
    else:
        impute = None if steps.impute is None else float(steps.impute)
    x = defined if impute is None else np.where(np.isnan(column), impute, column)
    if steps.one_hot:
        if not len(x):
            raise ModelError(f"input {name} has no defined value in {len(column)} training rows, so it has no categories; leave it out")
        values, counts = np.unique(x, return_counts=True)
        frequent = np.sort(values[np.argsort(-counts, kind="stable")[: steps.categories]])
        return Column(indicator=steps.indicator, impute=impute, categories=tuple(frequent.tolist()))
    low = high = mean = deviation = None
    if len(x):
        if steps.clip is not None:
            low, high = (float(v) for v in np.quantile(defined if len(defined) else x, steps.clip))
            x = np.clip(x, low, high)
        if steps.log1p:
            x = np.copysign(np.log1p(np.abs(x)), x)
        if steps.scale:
            mean, deviation = float(x.mean()), float(x.std())
            if not deviation > 1e-9 * max(1.0, abs(mean)):     # constant but for rounding: 0 / 1, as it says nothing
                deviation = 1.0
    return Column(indicator=steps.indicator, impute=impute, low=low, high=high, log1p=steps.log1p, mean=mean, deviation=deviation)
