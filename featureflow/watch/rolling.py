"""Scores with their labels, counted in bins: area under the ROC curve, calibration and base rate over a rolling window.

Counts are whole numbers, so what they say depends on no order. Of n_b negatives and p_b positives in a bin, N and P in all:

    AUC  = sum over bins of p_b (N_below_b + n_b / 2) / (P N), which is off by sum of p_b n_b / (2 P N) at most:
           pairs within one bin count a half, and are 0 or 1 (Hanley & McNeil 1982, equation 1)
    ECE  = sum over calibration bins of n_c / n |mean score_c - share of positives_c| (Naeini et al. 2015)
"""

from __future__ import annotations

from msgspec import Struct

from featureflow.kernel.tile import LADDER_US, TILES_PER_WINDOW, floor
from featureflow.store.mirror import Accuracy

BINS = 1_000                           # of the unit interval, of equal width; scores beyond it are in the first or the last
CALIBRATION_BINS = 10
_UNIT = 2.0**40                        # sums of scores are whole numbers of 2^-40
VERSIONS = 8                           # of one model that are counted; of more, those whose labels are oldest go


class Counts(Struct, array_like=True):
    """Of one model version and tile. ``bins``: bin -> (negatives, positives). ``sums``: calibration bin -> sum of scores in 2^-40."""

    bins: dict[int, tuple[int, int]] = {}
    sums: dict[int, int] = {}

    def add(self, score: float, positive: bool) -> None:
        """One score that got its label."""
        number = min(max(int(score * BINS), 0), BINS - 1)
        negatives, positives = self.bins.get(number, (0, 0))
        self.bins[number] = (negatives + (not positive), positives + positive)
        coarse = number * CALIBRATION_BINS // BINS
        self.sums[coarse] = self.sums.get(coarse, 0) + round(score * _UNIT)

    def merge(self, other: Counts) -> None:
        """Add what another counted."""
        for number, (negatives, positives) in other.bins.items():
            mine = self.bins.get(number, (0, 0))
            self.bins[number] = (mine[0] + negatives, mine[1] + positives)
        for coarse, total in other.sums.items():
            self.sums[coarse] = self.sums.get(coarse, 0) + total


def accuracy(counts: Counts, until_us: int, share: float = 1.0) -> Accuracy:
    """What counts come to."""
    negatives = sum(n for n, _ in counts.bins.values())
    positives = sum(p for _, p in counts.bins.values())
    n = negatives + positives
    if n == 0:
        return Accuracy(0, None, None, None, None, until_us, share)
    below = doubled = within = 0
    for number in sorted(counts.bins):
        n_b, p_b = counts.bins[number]
        doubled += p_b * (2 * below + n_b)
        within += p_b * n_b
        below += n_b
    pairs = 2 * positives * negatives
    return Accuracy(
        labels=n,
        auc=doubled / pairs if pairs else None,
        auc_error=within / pairs if pairs else None,
        base_rate=positives / n,
        calibration_error=_calibration_error(counts, n),
        until_us=until_us,
        share=share,
    )


def _calibration_error(counts: Counts, n: int) -> float:
    coarse: dict[int, list[int]] = {}
    for number, (negatives, positives) in counts.bins.items():
        both = coarse.setdefault(number * CALIBRATION_BINS // BINS, [0, 0])
        both[0] += negatives + positives
        both[1] += positives
    return sum(abs(counts.sums.get(c, 0) / _UNIT - positives) for c, (_, positives) in coarse.items()) / n


class Rolling(Struct, array_like=True):
    """Model version -> start of a tile of label time, microseconds -> counts. The window moves by the tile, as a sliding one does."""

    over_us: int
    versions: dict[str, dict[int, Counts]] = {}
    until: dict[str, int] = {}             # version -> its newest label's time

    @property
    def tile_us(self) -> int:
        """The largest of the ladder of which the window holds twelve, a second at least."""
        return max((tile for tile in LADDER_US if self.over_us >= TILES_PER_WINDOW * tile), default=LADDER_US[0])

    def add(self, version: str, labelled_us: int, score: float, positive: bool) -> None:
        """One score that got its label, of that instant."""
        tiles = self.versions.setdefault(version, {})
        tiles.setdefault(floor(labelled_us, self.tile_us), Counts()).add(score, positive)
        self.until[version] = max(labelled_us, self.until.get(version, labelled_us))

    def forget(self, now_us: int) -> None:
        """Drop what no window from ``now_us`` on reaches back to, and the versions beyond the bound."""
        begin = floor(now_us - self.over_us, self.tile_us)
        for version, tiles in list(self.versions.items()):
            kept = {start: counts for start, counts in tiles.items() if start >= begin}
            if kept:
                self.versions[version] = kept
            else:
                del self.versions[version], self.until[version]
        for version in sorted(self.versions, key=lambda one: self.until[one])[: max(0, len(self.versions) - VERSIONS)]:
            del self.versions[version], self.until[version]

    def accuracy(self, now_us: int, share: float = 1.0) -> dict[str, Accuracy]:
        """Version -> what it comes to in ``[floor(now_us - over_us, tile), now_us]``."""
        begin, found = floor(now_us - self.over_us, self.tile_us), {}
        for version, tiles in self.versions.items():
            whole = Counts()
            for start, counts in tiles.items():
                if start >= begin:
                    whole.merge(counts)
            found[version] = accuracy(whole, self.until[version], share)
        return found
