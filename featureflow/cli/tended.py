"""The folder's embedded server, for as long as ``up`` runs: nothing else would start it again where it has died."""

from __future__ import annotations

from featureflow.backoff import Backoff
from featureflow.cli.output import Output
from featureflow.cli.restart import FIRST_WAIT_S, LONGEST_WAIT_S
from featureflow.clock import SystemClock
from featureflow.errors import UnavailableError
from featureflow.store.online.embedded import EmbeddedServer


class Tended:
    """``look`` at it now and then: nothing happens between."""

    def __init__(self, server: EmbeddedServer, output: Output) -> None:
        self._server, self._output = server, output
        self._backoff = Backoff(SystemClock(), round(FIRST_WAIT_S * 1e6), round(LONGEST_WAIT_S * 1e6))

    def look(self) -> None:
        """Start it again where it has ended, which takes as long as it reads its data. One that cannot start is tried again later."""
        if self._backoff.waiting or self._server.alive:
            return
        self._backoff.failed()             # also where it starts: it may die of the same again
        self._output.warn("the embedded server ended by itself; it is started again")
        try:
            self._server.revive()
        except UnavailableError as error:
            self._output.warn(str(error))
