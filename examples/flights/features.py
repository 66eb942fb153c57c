"""Will this flight arrive more than 15 minutes late? Asked 30 minutes before it is to leave."""

from datetime import datetime

from featureflow import Entity, Event, Field, Model, Request, View, count, key, last, last_n, max, mean, stddev


class Carrier(Entity[str]): ...


class Origin(Entity[str]): ...


class Dest(Entity[str]): ...


class Route(Entity[str]): ...


class Aircraft(Entity[str]): ...


class Departure(Event, topic="departures", time="left_at", disorder="10m", keyed_by="route"):
    left_at: Field[datetime]
    flight: Field[int]
    carrier: Field[str] = key(Carrier)
    origin: Field[str] = key(Origin)
    dest: Field[str] = key(Dest)
    route: Field[str] = key(Route)
    aircraft: Field[str | None] = key(Aircraft)
    cancelled: Field[bool]
    delay_min: Field[float | None]


class Arrival(Event, topic="arrivals", time="landed_at", disorder="10m", keyed_by="route"):
    landed_at: Field[datetime]
    flight: Field[int]
    carrier: Field[str] = key(Carrier)
    origin: Field[str] = key(Origin)
    dest: Field[str] = key(Dest)
    route: Field[str] = key(Route)
    aircraft: Field[str | None] = key(Aircraft)
    diverted: Field[bool]
    delay_min: Field[float | None]


class CarrierNow(View, of=Carrier):
    flights = count(Departure, over=("1h", "6h"))
    cancelled = count(Departure, where=Departure.cancelled, over=("6h",))
    dep_delay = mean(Departure.delay_min, over=("1h", "6h"))
    arr_delay = mean(Arrival.delay_min, over=("1h", "6h"))
    landed = count(Arrival, over=("6h",))
    late = count(Arrival, where=Arrival.delay_min > 15, over=("6h",))


class OriginNow(View, of=Origin):
    flights = count(Departure, over=("1h", "3h"))
    cancelled = count(Departure, where=Departure.cancelled, over=("3h", "12h"))
    dep_delay = mean(Departure.delay_min, over=("1h", "3h"))
    spread = stddev(Departure.delay_min, over=("3h",))
    worst = max(Departure.delay_min, over=("1h",))
    late = count(Departure, where=Departure.delay_min > 15, over=("1h", "3h"))


class DestNow(View, of=Dest):
    arr_delay = mean(Arrival.delay_min, over=("3h", "12h"))
    landed = count(Arrival, over=("12h",))
    late = count(Arrival, where=Arrival.delay_min > 15, over=("12h",))
    diverted = count(Arrival, where=Arrival.diverted, over=("12h",))
    cancelled = count(Departure, where=Departure.cancelled, over=("12h",))


class RouteNow(View, of=Route):
    dep_delay = mean(Departure.delay_min, over=("6h", "7d"))
    arr_delay = mean(Arrival.delay_min, over=("12h", "7d"))


class AircraftNow(View, of=Aircraft, ttl="30d"):
    last_delays = last_n(Arrival.delay_min, 8)
    last_departure = last(Departure.delay_min, over=("6h", "1d"))
    arr_delay = mean(Arrival.delay_min, over=("6h", "1d"))


class Ask(Request):
    hour: Field[float]
    weekday: Field[int]
    distance: Field[float]


class Late(Model, deadline="50ms", drift=0.05):
    carrier_trend = CarrierNow.dep_delay["1h"] - CarrierNow.dep_delay["6h"]
    carrier_late_share = CarrierNow.late["6h"] / CarrierNow.landed["6h"]
    origin_late_share = OriginNow.late["1h"] / OriginNow.flights["1h"]
    origin_late_share_3h = OriginNow.late["3h"] / OriginNow.flights["3h"]
    dest_late_share = DestNow.late["12h"] / DestNow.landed["12h"]
    inputs = (
        Ask.hour,
        Ask.weekday,
        Ask.distance,
        carrier_trend,
        carrier_late_share,
        CarrierNow.dep_delay["1h"],
        CarrierNow.dep_delay["6h"],
        CarrierNow.arr_delay["1h"],
        CarrierNow.arr_delay["6h"],
        CarrierNow.cancelled["6h"],
        origin_late_share,
        origin_late_share_3h,
        OriginNow.flights["1h"],
        OriginNow.dep_delay["1h"],
        OriginNow.dep_delay["3h"],
        OriginNow.spread["3h"],
        OriginNow.worst["1h"],
        OriginNow.cancelled["3h"],
        OriginNow.cancelled["12h"],
        dest_late_share,
        DestNow.arr_delay["3h"],
        DestNow.arr_delay["12h"],
        DestNow.diverted["12h"],
        DestNow.cancelled["12h"],
        RouteNow.dep_delay["6h"],
        RouteNow.dep_delay["7d"],
        RouteNow.arr_delay["12h"],
        RouteNow.arr_delay["7d"],
        AircraftNow.last_delays,
        AircraftNow.last_departure["6h"],
        AircraftNow.last_departure["1d"],
        AircraftNow.arr_delay["6h"],
        AircraftNow.arr_delay["1d"],
    )
