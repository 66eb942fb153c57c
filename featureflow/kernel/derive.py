"""A model's inputs from features and request inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featureflow.define.spec import Column, Input, Model
from featureflow.errors import DefinitionError
from featureflow.kernel.expression import evaluate


def features_to_inputs(model: Model, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """The model's input matrix (n, sum of input sizes), float64.

    ``columns`` holds ``view:feature`` (n,) or (n, size), and ``request:field`` (n,). Where an input is undefined (NaN) its declared
    default stands; without one it stays NaN for the model's own imputation. Raises DefinitionError where an expression's
    width is not the input's.
    """
    n = len(next(iter(columns.values()))) if columns else 0
    out = np.empty((n, sum(declared.size for declared in model.inputs)))
    at = 0
    for declared in model.inputs:
        block = out[:, at:at + declared.size]
        if isinstance(declared.expr, Column) and _is_plain(column := columns[declared.expr.name], n, declared.size):
            np.add(column, 0.0, out=block[:, 0])  # as ``evaluate`` gives it, in one step: most inputs are features as they are
        else:
            block[:] = _evaluated(model, declared, columns, n)
        if declared.default is not None:
            block[np.isnan(block)] = declared.default
        at += declared.size
    return out


def _is_plain(column: NDArray[Any], n: int, size: int) -> bool:
    return size == 1 and column.dtype == np.float64 and column.shape == (n,)


def _evaluated(model: Model, declared: Input, columns: Mapping[str, NDArray[Any]], n: int) -> NDArray[np.float64]:
    """(n, size) one input's values. Raises DefinitionError."""
    values = evaluate(declared.expr, columns, n)
    if values.dtype == object or values.size != n * declared.size:
        raise DefinitionError(
            f"input {declared.name!r} of model {model.name!r} gives {values.dtype} values of shape {values.shape}, "
            f"not {declared.size} numbers a row",
            write="an expression over numbers; a last_n feature stands alone",
        )
    return values.reshape(n, declared.size)
