from datetime import datetime

from featureflow import Entity, Event, Field, Model, Request, View, count, key, last_n, max, mean


class Carrier(Entity[str]): ...
class Airport(Entity[str]): ...
class Aircraft(Entity[str]): ...

class Departure(Event, topic="departures", time="left_at", disorder="10m"):
    left_at: Field[datetime]
    carrier: Field[str] = key(Carrier)
    origin: Field[str] = key(Airport)
    delay_min: Field[float]

class Arrival(Event, topic="arrivals", time="landed_at", disorder="10m"):
    landed_at: Field[datetime]
    aircraft: Field[str] = key(Aircraft)
    carrier: Field[str] = key(Carrier)
    delay_min: Field[float]

class CarrierNow(View, of=Carrier):                        # two sources, no extra syntax
    flights = count(Departure, over=("1h", "6h"))
    late = count(Arrival, where=Arrival.delay_min > 15, over=("6h",))
    delay = mean(Departure.delay_min, over=("1h", "6h"))

class OriginNow(View, of=Airport, role=Departure.origin):  # role where an entity occurs twice
    worst = max(Departure.delay_min, over=("3h",))

class AircraftNow(View, of=Aircraft, ttl="30d"):
    last_delays = last_n(Arrival.delay_min, 8)

class Ask(Request):
    hour: Field[int]

class Late(Model, deadline="20ms", drift=0.03):
    trend = CarrierNow.delay["1h"] - CarrierNow.delay["6h"]
    late_share = CarrierNow.late["6h"] / CarrierNow.flights["6h"]
    inputs = (trend, late_share, OriginNow.worst["3h"], AircraftNow.last_delays, Ask.hour)
