"""What each stage of a turn took of each model, by rows: what its capacity is worked out from."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from featureflow.serve.durations import Durations
from featureflow.serve.metrics import STAGES

READ_WEIGHT = 0.02
STANDS_S = 0.05  # to look at all stages after every turn would cost as much as some of them do


class Spent:
    """Belongs to one event loop."""

    def __init__(self, now_s: Callable[[], float] = monotonic) -> None:
        self._now_s = now_s
        self.read_s = 0.0  # of one request: its bytes, its body, letting it in; a moving average
        self._models: dict[str, dict[str, Durations]] = {}

    def of(self, model: str) -> dict[str, Durations]:
        """Durations by stage."""
        found = self._models.get(model)
        if found is None:
            found = self._models[model] = {stage: Durations(self._now_s, STANDS_S) for stage in STAGES}
        return found

    def read(self, seconds: float) -> None:
        """One request was read in so long."""
        self.read_s += READ_WEIGHT * (seconds - self.read_s)

    def infer_s(self, model: str, rows: int) -> float | None:
        """What the model takes for so many rows; None where it has not run yet."""
        return self.of(model)["infer"].typical_of(rows) or None

    def after_fetch_s(self, model: str, rows: int) -> float:
        """What is to be done once the features are there; 0 where nothing is known."""
        return sum(durations.typical_of(rows) for stage, durations in self.of(model).items() if stage != "fetch")
