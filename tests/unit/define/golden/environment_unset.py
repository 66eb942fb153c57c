import os
from datetime import datetime

from featureflow import Event, Field


class Departure(Event, topic=os.environ["DEPARTURES_TOPIC_THAT_NOBODY_SET"], time="left_at", disorder="10m"):
    left_at: Field[datetime]
