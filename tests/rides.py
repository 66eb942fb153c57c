"""What the projects of tests that run as processes have in common, as text of a definitions file: ``{topic}`` is to be put in."""

ENTITIES = '''
class Rider(Entity[str]): ...


class Zone(Entity[int]): ...

'''

RIDE = '''
class Ride(Event, topic="{topic}-rides", time="at", disorder="1m", keyed_by="rider"):
    at: Field[datetime]
    rider: Field[str] = key(Rider)
    zone: Field[int | None] = key(Zone)
    fare: Field[float | None]
    cash: Field[bool]

'''
TIP = '''
class Tip(Event, topic="{topic}-tips", time="at", disorder="1m"):
    at: Field[datetime]
    rider: Field[str] = key(Rider)
    amount: Field[float]

'''

VIEWS = '''
class RiderNow(View, of=Rider):
    rides = count(Ride, over=("1m", "10m", "1h"))
    spent = sum(Ride.fare, over=("10m", "1h"))
    spread = stddev(Ride.fare, over=("1h",))
    tips = mean(Tip.amount, over=("10m", "1h"))
    largest = max(Tip.amount, over=("1h",))


class ZoneNow(View, of=Zone, ttl="2d"):
    cash = count(Ride, where=Ride.cash, over=("10m", "1h"))
    fares = last_n(Ride.fare, 4)

'''
