"""Sums of what fades, each event weighed against the end of its own tile (``kernel.decay``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from featureflow.define.spec import Aggregation
from featureflow.kernel import exact
from featureflow.kernel.decay import landmark, power_of_two
from featureflow.kernel.exact import Float, Int
from featureflow.kernel.partial.base import Merge, Partial
from featureflow.kernel.tile import tile_for


@dataclass(frozen=True)
class Decayed(Partial):
    """The exact sum of weighted values rounded to multiples of 2^-56. A row stands for one landmark as long as it is in the window."""

    half_life_us: int = 0
    tile_us: int = 0

    merge = Merge.LIMBS

    @classmethod
    def of(cls, declared: Aggregation) -> Self:
        return cls(declared.value, declared.where, declared.half_life_us, tile_for(declared.windows[0]))

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(f"decayed_{i}" for i in range(exact.SUM_LIMBS))

    def lift(self, values: Float, times_us: Int) -> Int:
        return exact.split(exact.quantize(values * self.weights(times_us)), exact.SUM_LIMBS)

    def weights(self, times_us: Int) -> Float:
        """(n,) 2^((t - landmark) / half-life): above 2^(-40/12), at most 1."""
        return power_of_two(times_us - landmark(times_us, self.tile_us), self.half_life_us)

    @staticmethod
    def read(columns: Int) -> Float:
        return exact.to_float(columns)


class Weight(Decayed):
    """The exact sum of the weights of what participated."""

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(f"weight_{i}" for i in range(exact.SUM_LIMBS))

    def lift(self, values: Float, times_us: Int) -> Int:
        return exact.split(exact.quantize(self.weights(times_us)), exact.SUM_LIMBS)
