"""Fields that are one of several strings, and fields that are vectors."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import pytest

from featureflow import Entity, Event, Field, Vector, count, is_null, key, limits
from featureflow.define import project, spec
from featureflow.errors import DefinitionError
from featureflow.kernel.decode import Decoder


class User(Entity[str]): ...


class Visit(Event, topic="visits", time="at", disorder="1m"):
    at: Field[datetime]
    user: Field[str] = key(User)
    channel: Field[Literal["web", "app"]]
    plan: Field[Literal["free", None]]
    taste: Field[Vector[3]]
    mood: Field[Vector[2] | None]


NOW = datetime(2013, 12, 30, tzinfo=UTC)
GOOD: dict[str, Any] = {"at": NOW, "user": "u", "channel": "web", "plan": None, "taste": [1, 0.5, -0.0], "mood": None}


def test_kinds_become_plain_values() -> None:
    _, _, channel, plan, taste, mood = Visit._definition.fields
    assert channel == spec.Field(name="channel", type="str", categories=("app", "web"))
    assert plan == spec.Field(name="plan", type="str", categories=("free",), nullable=True)
    assert taste == spec.Field(name="taste", type="vector", size=3)
    assert mood == spec.Field(name="mood", type="vector", size=2, nullable=True)
    assert [f.text for f in (channel, plan, taste, mood)] == [
        "Literal['app', 'web']", "Literal['free'] | None", "Vector[3]", "Vector[2] | None",
    ]  # fmt: skip
    assert Visit.taste.size == 3


def test_what_is_produced_is_what_the_worker_decodes() -> None:
    other = {"channel": "app", "plan": "free", "taste": np.array([0.1, 1e300 / 1e290, 5e-324]), "mood": (3, 4)}
    events = [Visit(**GOOD), Visit(**{**GOOD, **other})]
    decoded = Decoder(Visit._definition).decode([event.to_json() for event in events])
    assert decoded.refused == ()
    columns = decoded.events.columns
    assert columns["channel"].tolist() == ["web", "app"]
    assert columns["taste"].tobytes() == np.array([[1, 0.5, 0.0], [0.1, 1e300 / 1e290, 5e-324]]).tobytes()
    assert np.isnan(columns["mood"][0]).all()
    assert columns["mood"][1].tolist() == [3.0, 4.0]


@pytest.mark.parametrize(("change", "says"), [
    ({"channel": "fax"}, "Visit.channel is 'fax'; it is one of 'app' and 'web'"),
    ({"channel": None}, "not '| None'"),
    ({"taste": [1, 2]}, "has 2 numbers; it takes 3"),
    ({"taste": [1, 2, math.nan]}, "Visit.taste is nan"),
    ({"taste": [1, 2, 2.0**63]}, "smaller than 2^63"),
    ({"taste": [1, 2, None]}, "Visit.taste is None"),
    ({"taste": [1, 2, True]}, "Visit.taste is True"),
    ({"taste": "abc"}, "takes a vector"),
    ({"taste": 3}, "takes 3 numbers"),
    ({"taste": None}, "not '| None'"),
])  # fmt: skip
def test_an_instance_refuses_what_would_be_a_dead_letter(change: dict[str, Any], says: str) -> None:
    with pytest.raises((TypeError, ValueError), match="Visit") as caught:
        Visit(**{**GOOD, **change})
    assert says in str(caught.value)


def test_a_category_is_compared_with_its_own_and_a_vector_only_with_null() -> None:
    assert count(Visit, where=Visit.channel == "web", over=("1h",)).where is not None
    assert count(Visit, where="app" != Visit.channel, over=("1h",)).where is not None  # noqa: SIM300  # that side too
    assert count(Visit, where=~is_null(Visit.mood), over=("1h",)).where is not None
    for wrong, says in (
        (lambda: Visit.channel == "wep", "Write: Visit.channel == \"web\""),
        (lambda: Visit.channel != "fax", "is never false"),
        (lambda: Visit.taste == Visit.taste, "vectors"),
        (lambda: Visit.taste + 1, "not a number"),
        (lambda: Visit.taste > 1, "compares vectors"),
    ):
        with pytest.raises(DefinitionError) as caught:
            wrong()
        assert says in str(caught.value)


@pytest.mark.parametrize(("hint", "says"), [
    ("Literal[1, 2]", "1 to 256 strings"),
    ("Literal['a', 1]", "1 to 256 strings"),
    (f"Literal[{', '.join(repr(str(i)) for i in range(limits.CATEGORIES + 1))}]", "1 to 256 strings"),
    (f"Literal['{'x' * (limits.STRING_BYTES + 1)}']", "at most 1024 bytes"),
    ("Literal['\\ud800']", "at most 1024 bytes"),
    ("Vector", "a vector of no size"),
    ("Vector[0]", "from 1 to 1024"),
    ("Vector[True]", "from 1 to 1024"),
    (f"Vector[{limits.VECTOR_SIZE + 1}]", "from 1 to 1024"),
    ("Vector[3.5]", "a vector of 3.5"),
])  # fmt: skip
def test_what_is_no_kind_of_field_is_refused(hint: str, says: str, tmp_path: Any) -> None:
    file = tmp_path / "features.py"
    file.write_text(TEXT.replace("HINT", hint))
    with pytest.raises(DefinitionError) as caught:
        project.load(file)
    assert says in str(caught.value)


@pytest.mark.parametrize(("wrong", "right", "size"), [("True", "1", 1), ("3.0", "3", 3)])
def test_what_equals_a_size_and_is_none_is_told_from_it_whichever_comes_first(wrong: str, right: str, size: int, tmp_path: Any) -> None:
    file = tmp_path / "features.py"
    for _ in range(2):                     # typing remembers what it made of equal arguments
        file.write_text(TEXT.replace("HINT", f"Vector[{wrong}]"))
        with pytest.raises(DefinitionError, match=f"a vector of {wrong}"):
            project.load(file)
        file.write_text(TEXT.replace("HINT", f"Vector[{right}]"))
        assert project.load(file).sources[0].by_name["kind"].size == size


TEXT = """
from datetime import datetime
from typing import Literal
from featureflow import Entity, Event, Field, Vector, View, count, key, is_null

class User(Entity[str]): ...

class Visit(Event, topic="visits", time="at", disorder="1m"):
    at: Field[datetime]
    user: Field[str] = key(User)
    kind: Field[HINT]

class UserNow(View, of=User):
    visits = count(Visit, where=~is_null(Visit.kind), over=("1h",))
"""


def test_what_a_field_may_hold_is_part_of_the_meaning_of_the_views_that_read_it(tmp_path: Any) -> None:
    def version(hint: str) -> str:
        file = tmp_path / "features.py"
        file.write_text(TEXT.replace("HINT", hint))
        return project.load(file).views[0].version

    kinds = ["str", "str | None", "Literal['a']", "Literal['a', 'b']", "Literal['a', None]", "Vector[3]", "Vector[4]", "Vector[4] | None"]
    assert len({version(kind) for kind in kinds}) == len(kinds)
    assert version("Literal['b', 'a', 'b']") == version("Literal['a', 'b']")
    assert (version("str"), version("float | None")) == ("a6f9a9153b", "3f5d5afbc6")  # of the first version: its state goes on
