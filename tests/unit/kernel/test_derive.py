from __future__ import annotations

import numpy as np
import pytest

from featureflow.define.spec import Call, Column, Input, Model
from featureflow.errors import DefinitionError
from featureflow.kernel.derive import features_to_inputs

SHARE = Call("div", (Column("v:late"), Column("v:all")))


def model(*inputs: Input) -> Model:
    return Model(name="m", inputs=inputs, deadline_us=1000, drift=0.03)


def test_inputs_stand_side_by_side_in_their_order() -> None:
    of = model(
        Input(name="share", expr=SHARE),
        Input(name="last", expr=Column("v:last"), size=2),
        Input(name="hour", expr=Column("request:hour")),
        Input(name="many", expr=Call("gt", (Column("v:all"), Column("v:late")))),
    )
    columns = {
        "v:late": np.array([1.0, 2.0]), "v:all": np.array([4.0, 2.0]), "v:last": np.array([[1.0, 2.0], [3.0, 4.0]]),
        "request:hour": np.array([17, 18]),
    }  # fmt: skip
    got = features_to_inputs(of, columns)
    assert got.dtype == np.float64
    assert got.tolist() == [[0.25, 1.0, 2.0, 17.0, 1.0], [1.0, 3.0, 4.0, 18.0, 0.0]]


def test_a_default_stands_where_an_input_is_undefined_and_nan_where_there_is_none() -> None:
    columns = {"v:late": np.array([1.0, np.nan]), "v:all": np.array([0.0, 2.0]), "v:last": np.array([[1.0, np.nan], [np.nan, 2.0]])}
    declared = model(
        Input(name="a", expr=SHARE, default=-1.0),
        Input(name="b", expr=SHARE),
        Input(name="c", expr=Column("v:last"), size=2, default=0.0),
    )
    got = features_to_inputs(declared, columns)
    assert got[:, [0, 2, 3]].tolist() == [[-1.0, 1.0, 0.0], [-1.0, 0.0, 2.0]]
    assert np.isnan(got[:, 1]).all()


def test_an_input_of_the_wrong_width_or_type_is_named() -> None:
    with pytest.raises(DefinitionError, match=r"input 'a' of model 'm' gives float64 values of shape \(2, 3\), not 1 numbers"):
        features_to_inputs(model(Input(name="a", expr=Column("v:l"))), {"v:l": np.ones((2, 3))})
    with pytest.raises(DefinitionError, match="input 'a' of model 'm' gives object"):
        features_to_inputs(model(Input(name="a", expr=Column("request:s"))), {"request:s": np.array(["x"], object)})
