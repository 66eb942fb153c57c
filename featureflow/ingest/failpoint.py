"""Named places where a test may end the process. Inert unless something armed is handed in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

Online = Literal[
    "after_poll",
    "in_revoke",                           # told that partitions go, nothing dropped yet
    "in_claim",                            # the token is taken, nothing is read yet
    "after_decode",
    "before_dead_letters",                 # passed only where there are some
    "after_dead_letters",                  # appended, not committed past
    "after_fold",                          # folded in memory, nothing sent
    "before_commit",
    "in_flight",                           # sent, the next batch is folded if there is one, no answer is taken yet
    "after_commit",                        # applied, and the worker does not know it yet
    "before_advisory",
    "after_advisory",
]
"""Of the worker, in the order of its turn."""

History = Literal[
    "after_poll",
    "in_revoke",
    "in_claim",                            # where history stands is known, nothing is read yet
    "after_decode",
    "before_append",                       # no transaction yet
    "offset_moved",                        # in the transaction, which has no rows yet
    "rows_inserted",                       # in the transaction, before its COMMIT
    "after_append",                        # after COMMIT, and the writer does not know it yet
    "before_advisory",
    "after_advisory",
]
"""Of the history writer, in the order of its round."""

Amending = Literal[
    "refused_settled",                     # in the transaction that takes refused records back, which has no rows yet
    "events_inserted",                     # in it, before its COMMIT
    "after_settle",                        # after COMMIT
    "mark_moved",                          # in the transaction that fills in fields, where rows are as they were
    "fields_filled",                       # in it, before its COMMIT
    "after_fill",                          # after COMMIT
]
"""Of the history writer where a definition has changed under rows, beside its round."""

Name = Literal[Online, History, Amending]
NAMES: tuple[Name, ...] = tuple(dict.fromkeys(get_args(Name)))

Failpoint = Callable[[Name], None]
"""Called with the name of the place that is passed."""


def unarmed(name: Name) -> None:
    """Nothing happens."""
