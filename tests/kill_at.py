"""A failpoint of ingest that is armed: at the nth passing of a named place the process dies, or stops."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field

from featureflow.ingest.failpoint import NAMES, Failpoint, Name, unarmed


@dataclass
class KillAt:
    """SIGKILL this process when it passes ``name`` for the ``nth`` time: no handler runs, nothing is flushed. Another ``sent``, once."""

    name: Name
    nth: int = 1
    sent: signal.Signals = signal.SIGKILL
    _passed: int = field(default=0, init=False)

    def __call__(self, name: Name) -> None:
        if name == self.name:
            self._passed += 1
            if self._passed == self.nth:
                os.kill(os.getpid(), self.sent)


def parse(text: str, sent: signal.Signals = signal.SIGKILL) -> Failpoint:
    """``""`` is unarmed, ``"after_fold"`` or ``"after_fold:3"`` kills there. Raises ValueError for an unknown name."""
    if not text:
        return unarmed
    wanted, _, nth = text.partition(":")
    for name in NAMES:
        if name == wanted:
            return KillAt(name, int(nth or 1), sent)
    raise ValueError(f"no failpoint is named {wanted!r}; there are {', '.join(NAMES)}")
