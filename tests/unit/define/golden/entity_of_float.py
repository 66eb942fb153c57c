from datetime import datetime

from featureflow import Entity


class Carrier(Entity[float]): ...
