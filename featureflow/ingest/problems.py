"""What a worker waits for: by the step that failed, until it succeeds."""

from __future__ import annotations

import structlog

from featureflow.errors import UnavailableError


class Problems:
    """One sentence for each step that fails now. A problem is logged when it is new, not at each attempt."""

    def __init__(self, state: str) -> None:
        """``state``: what is said as long as it neither runs nor fails."""
        self._by_step = {"poll": state}
        self._logger = structlog.get_logger("featureflow.ingest")

    @property
    def all(self) -> tuple[str, ...]:
        """Nothing where all goes well."""
        return tuple(self._by_step.values())

    def failed(self, step: str, problem: UnavailableError) -> None:
        """The step is to be tried again."""
        if self._by_step.get(step) != str(problem):
            self._logger.warning("waiting", step=step, problem=str(problem))
        self._by_step[step] = str(problem)

    def over(self, step: str) -> None:
        """It succeeded."""
        self._by_step.pop(step, None)

    def none(self) -> None:
        """All goes well: what was said at the start is over too."""
        self._by_step.clear()

    def stopped(self) -> None:
        """The worker runs no more."""
        self._by_step = {"poll": "stopped"}
