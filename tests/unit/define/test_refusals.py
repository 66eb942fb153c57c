"""What the golden files do not show: each further mistake, appended to a right file, and how its message begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from featureflow.define import project
from featureflow.errors import DefinitionError

RIGHT = """\
from datetime import datetime
from featureflow import *

class Carrier(Entity[str]): ...
class Airport(Entity[str]): ...

class Departure(Event, topic="departures", time="left_at", disorder="10m"):
    left_at: Field[datetime]
    carrier: Field[str] = key(Carrier)
    origin: Field[str] = key(Airport)
    seats: Field[int]
    cancelled: Field[bool]

class Arrival(Event, topic="arrivals", time="landed_at", disorder="10m"):
    landed_at: Field[datetime]
    origin: Field[str] = key(Airport)
    delay: Field[float | None]

class CarrierNow(View, of=Carrier, ttl=None):
    flights = count(Departure, over=("1h", lifetime))
    seats = last_n(Departure.seats, 3)

class Ask(Request):
    hour: Field[int]
"""
VIEW = "class V(View, of=Carrier):\n    x = "
EVENT = "class E(Event, topic='e', time='at', disorder='1s'):\n    at: Field[datetime]\n    "
MODEL = "class M(Model, deadline='20ms', drift=0.01):\n    inputs = (Ask.hour,)\n    "
OVER = 'over=("1h",))'


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (f"{VIEW}count(Departure.seats, {OVER}", "count(Departure.seats) counts a field"),
        (f"{VIEW}count('Departure', {OVER}", "count('Departure') names no event class"),
        (f"{VIEW}mean(Departure, {OVER}", "mean(Departure) names an event"),
        (f"{VIEW}mean(3, {OVER}", "mean(3) does not aggregate a field"),
        (f"{VIEW}mean(CarrierNow.flights, {OVER}", "mean(CarrierNow.flights) does not aggregate a field"),
        (f"{VIEW}mean(abs(-3), {OVER}", "mean(abs(-3)) reads no field"),
        (f"{VIEW}mean(CarrierNow.flights['1h'], {OVER}", 'mean(CarrierNow.flights["1h"]) aggregates features'),
        (f"{VIEW}mean(Ask.hour, {OVER}", "mean(Ask.hour) aggregates a request's fields"),
        (f"{VIEW}mean(Departure.cancelled, {OVER}", "mean(Departure.cancelled): Departure.cancelled is a bool"),
        (f"{VIEW}mean(Departure.seats, default=float('nan'), {OVER}", "default=nan is no number"),
        (f"{VIEW}mean(Departure.seats, default=True, {OVER}", "default=True is no number"),
        (f"{VIEW}mean(Departure.seats + Arrival.delay, {OVER}",
         "Departure.seats + Arrival.delay mixes the fields of Arrival and Departure"),
        (f"{VIEW}mean(Departure.seats, over=(lifetime(),))", "lifetime is a window as it stands and is not called"),
        (f"{VIEW}mean(Departure.seats, over=lifetime)", "over=lifetime is one window"),
        (f"{VIEW}mean(Departure.seats, over=['1h'])", "over=['1h'] is a list"),
        (f"{VIEW}mean(Departure.seats, over=('1500ms',))", 'the window "1500ms" is not a whole number of seconds'),
        (f"{VIEW}Departure.seats + 1", "V.x is Departure.seats + 1; a View's body holds aggregations only"),
        (f"{VIEW}3", "V.x is 3; a View's body"),
        (f"{VIEW}count(Departure, over=('1h', '2h'))\n    x_1h = count(Departure, {OVER}\n    X = x_1h",
         "an aggregation of V is named 'X'"),
        ("class V(View, of=Carrier): ...", "V has no aggregations"),
        ("class V(View, of=Departure): ...", "of=Departure of V is no entity"),
        ("class V(View, of=Entity): ...", "of=Entity of V is no entity"),
        (f"class V(CarrierNow, of=Carrier):\n    x = count(Departure, {OVER}", "the view V is built on another class"),
        ("class V(View, of=Airport, role=(Departure.origin, Arrival.origin)):\n    x = count(Departure, over=('1h',))",
         "role= names Arrival, which"),
        ("class V(View, of=Carrier, ttl=None):\n    x_1h = last_n(Departure.seats, 3)\n    x = count(Departure, over=('1h',))",
         "V.x and V.x_1h both make the feature v:x_1h"),
        ("class V(View, of=Carrier, ttl='5ms'):\n    x = last_n(Departure.seats, 3)", "ttl='5ms' of V is shorter than a second"),
        ("class E(Arrival, topic='e', time='at', disorder='1s'): ...", "the event E is built on another class"),
        ("class E(Event, topic='e', time='at', disorder='1s'):\n    at: Field[int]", "time='at' of E is an int; the event time"),
        ("class E(Event, topic='e', time='at', disorder='1s'):\n    at: Field[datetime | None]",
         "time='at' of E is a datetime | None; the event time"),
        ("class E(Event, topic='e', time='at', disorder='1s', keyed_by='x'):\n    at: Field[datetime]\n    x: Field[str | None]",
         "keyed_by='x' of E is a str | None"),
        (f"{EVENT}x: Field[str] = key(str)", "key(str) names no entity"),
        (f"{EVENT}x = key(Carrier)", "E.x has no type"),
        (f"{EVENT}to_json: Field[str]", "E.to_json hides a name of Event"),
        (f"{EVENT}x: Field[float] = 3.0", "E.x has the value 3.0"),
        (f"{EVENT}x: 'Field[flot]'", "E.x has the type flot, which is not defined"),
        (f"{EVENT}x: Field[int | str]", "E.x has the type int | str"),
        (f"{EVENT}x: Field", "E.x is annotated Field; a field's type stands in"),
        ("class Featureflow(Event, topic='e', time='at', disorder='1s'):\n    at: Field[datetime]",
         "the event Featureflow would be called 'featureflow'"),
        ("class Later(Ask):\n    x: Field[int]", "the request Later is built on another class"),
        ("class Later(Request):\n    x: Field[str] = key(Carrier)", "Later.x is a key"),
        ("class C(Carrier): ...", "the entity C is built on Carrier"),
        ("class C(Entity): ...", "the entity C does not say the type of its id"),
        (f"{MODEL}x = 1\n", "M.x is 1; a Model's body"),
        (f"{MODEL}pass\n\nclass N(M, deadline='20ms', drift=0.01):\n    inputs = (Ask.hour,)", "the model N is built on another class"),
        (f"{MODEL}x = count(Departure, {OVER}", "M.x aggregates events, which a View does"),
        (f"{MODEL}x = abs(-3)", "M.x reads no feature and no request field"),
        (f"{MODEL}x = CarrierNow.flights", 'CarrierNow.flights stands for all its windows ("1h" and lifetime)'),
        (f"{MODEL}x = CarrierNow.seats[0]", "CarrierNow.seats is a sequence of 3 values"),
        (f"{MODEL}x = CarrierNow.flights['1h'] + Departure.seats", 'CarrierNow.flights["1h"] + Departure.seats mixes an event\'s fields'),
        (f"{MODEL}pass\n\ndel Ask", "M reads ask:hour, whose class is not a name of this file"),
        ((f"{MODEL}pass\n\nclass Also(Request):\n    hour: Field[int]\n\n"
         "class N(Model, deadline='20ms', drift=0.01):\n    x = Ask.hour + Also.hour\n    inputs = (x,)"),
         "N reads Ask.hour and Also.hour, and a caller sends one hour"),
        ("class E(Event, topic='e', time='at', disorder='999999999999d'):\n    at: Field[datetime]",
         "disorder= of E is '999999999999d', longer than the limit"),
        ("class E(Event, topic='e', time='at', disorder='1s', future='36501d'):\n    at: Field[datetime]",
         "future= of E is '36501d', longer than the limit"),
        ("class V(View, of=Carrier, ttl='106751992d'):\n    x = last_n(Departure.seats, 3)",
         "ttl= of V is '106751992d', longer than the limit"),
        (f"{EVENT}" + "".join(f"x{i}: Field[int]\n    " for i in range(512)), "E has 513 fields; the limit is 512"),
        ("x = Departure.seats\nfor _ in range(500): x = x + 1", "an expression of 201 parts, 101 deep, is too large"),
        ("x = Departure.seats\nfor _ in range(40): x = x + x", "an expression of 1023 parts, 10 deep, is too large"),
        ("x = Departure.carrier == chr(0xd800)", "the string '\\ud800' holds half a surrogate pair"),
        ("x = Departure.carrier == 'x' * 5_000_000", "the string 'xxxxxxxxxxxxxxxxxxxx'... has 5000000 bytes"),
        ("del Departure", "CarrierNow uses Departure, which is not a name of this file"),
        ("import no_such_module", "there is no module no_such_module"),
        ("x = Departure.seats.mean()", "Departure.seats is a column and has no mean"),
        ("x = CarrierNow.flights.mean", "CarrierNow.flights has no mean"),
        ("x = Departure.seats ** 2", "unsupported operand type(s) for **"),
        ("x = max(Departure.seats, 3)", "max() takes 1 positional argument"),
        ("x = Departure.seats == None", "None is not a value to compare"),
        ("class Own(Model, deadline='20ms', drift=0.01):\n    inputs = (Own.x,)", "Own is used in its own body, before it is defined"),
    ],
)  # fmt: skip
def test_a_mistake_is_refused_on_its_line(wrong: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "features.py"
    path.write_text(f"{RIGHT}\n{wrong}\n")
    with pytest.raises(DefinitionError) as caught:
        project.load(path)
    assert caught.value.problem.startswith(said)
    assert caught.value.file == str(path)
    if not wrong.startswith("del "):
        assert caught.value.line > RIGHT.count("\n")


def test_the_file_that_the_mistakes_are_appended_to_is_right(tmp_path: Path) -> None:
    path = tmp_path / "features.py"
    path.write_text(RIGHT)
    assert len(project.load(path).views) == 1
