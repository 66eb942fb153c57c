"""What was folded into a slab and is not known to be in the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featureflow.ingest.order import Index

OUTSTANDING = 2                        # batches, at most: one on its way, and one that was folded meanwhile


@dataclass(frozen=True, eq=False)
class Pending:
    """The entities that a batch changes."""

    partition: int
    slots: Index                           # (e,) distinct, in order
    last: Index                            # (e,) the last commit that touches each
    whole: NDArray[np.bool_]               # (e,) written whole by the first

    def committed_ms(self, times_ms: Sequence[int]) -> Index:
        """(e,) when all of each entity came into the store, of the times of the batch's commits; -1 where it did not."""
        return np.array(times_ms, np.int64)[self.last]             # a commit is not applied unless those before it were
