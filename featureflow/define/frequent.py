"""``top_k``: the most frequent values, as it stands in a View's body."""

from __future__ import annotations

from typing import Any, TypeAlias, overload

from featureflow import limits
from featureflow.define import spec
from featureflow.define.aggregation import OfWindows, where_of
from featureflow.define.event import Event
from featureflow.define.expression import Expr, Number, Truth
from featureflow.define.place import wrong
from featureflow.define.sequence import CalculatedNumbers, CalculatedStrings, Numbers, Strings
from featureflow.define.sketch import asked
from featureflow.define.window import Window

Text: TypeAlias = "Expr[str | None]"


class Counts(OfWindows):
    """How often each of the most frequent values occurs: ``UserNow.favourites.counts["1d"]`` is a sequence of numbers."""

    @property
    def text(self) -> str:
        """How it is reached: ``UserNow.favourites.counts``."""
        return f"{self.view.__name__}.{self.name.removesuffix('_count')}.counts" if self.view else f"{self.op}(...)"

    def __getitem__(self, window: str | Window) -> Numbers:
        """The counts over one of the windows. Raises DefinitionError for a window that ``over=`` does not name."""
        return CalculatedNumbers(self._feature(window), self.size)


class _TopK(OfWindows):
    """Two features for each window: the values, and their counts."""

    def __init__(
        self, event: type[Event], value: spec.Expr, where: spec.Expr | None, over: tuple[Window, ...], k: int, error: float, width: int
    ) -> None:
        super().__init__("top_k", event, value, where, over, None, k, width=width, error=error)
        entry = (spec.Payload(value, width),) if width else ()      # of what the counts are: the same sketch
        self.counts = Counts("top_k_count", event, value, where, over, None, k, entry=entry, error=error)

    def belong(self, view: type, name: str) -> None:
        super().belong(view, name)
        self.counts.belong(view, f"{name}_count")

    def definitions(self) -> tuple[spec.Aggregation, ...]:
        return self.definition(), self.counts.definition()


class TopNumbers(_TopK):
    """Numbers: ``UserNow.amounts["1d"]`` is a sequence of k of them, the most frequent first."""

    def __getitem__(self, window: str | Window) -> Numbers:
        """The values over one of the windows. Raises DefinitionError for a window that ``over=`` does not name."""
        return CalculatedNumbers(self._feature(window), self.size)


class TopTexts(_TopK):
    """Strings: ``UserNow.favourites["1d"]`` is a sequence of k of them, the most frequent first."""

    def __getitem__(self, window: str | Window) -> Strings:
        """The values over one of the windows. Raises DefinitionError for a window that ``over=`` does not name."""
        return CalculatedStrings(self._feature(window), self.size)


@overload
def top_k(  # type: ignore[overload-overlap]  # only of an Expr[None]: there is none
    value: Text, k: int, *, over: tuple[str | Window, ...], error: float = 0.02, where: Truth | None = None, width: int = ...
) -> TopTexts: ...
@overload
def top_k(
    value: Number | Truth, k: int, *, over: tuple[str | Window, ...], error: float = 0.02, where: Truth | None = None
) -> TopNumbers: ...
def top_k(
    value: Expr[Any], k: int, *, over: tuple[str | Window, ...], error: float = 0.02, where: Truth | None = None, width: int | None = None
) -> TopNumbers | TopTexts:
    """The k most frequent values, most frequent first, and of equally frequent ones the smaller first.

    ``counts`` says how often each occurs. Exact while there are few different values, up to 2 / ``error``. Beyond, counts may
    be too large, by at most ``error`` of all events, and values less frequent than that may be missed.
    A string is counted up to ``width`` bytes; an event with a longer one is refused.
    """
    event, windows = asked("top_k", value, ("str", "int", "float", "bool"), over, error, (0.002, 0.25))
    _check_size(k, value.text)
    wide = _width(value, width)
    kind = TopTexts if wide else TopNumbers
    return kind(event, value.node, where_of("top_k", event, where), windows, k, float(error), wide)


def _check_size(k: object, text: str) -> None:
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= limits.TOP_K:
        raise wrong(f"top_k({text}, {k!r}): k is a whole number from 1 to {limits.TOP_K}", write=f"top_k({text}, 3, ...)")


def _width(value: Expr[Any], width: object) -> int:
    """Bytes that are kept of each string; 0 of numbers."""
    if value.type != "str":
        if width is not None:
            raise wrong(f"top_k({value.text}) has a width=, which is for strings", write=f"top_k({value.text}, 3, ...) without it")
        return 0
    if width is None:
        return limits.TOP_K_BYTES_UNSAID
    if isinstance(width, bool) or not isinstance(width, int) or not 1 <= width <= limits.TOP_K_BYTES:
        raise wrong(
            f"width={width!r} of top_k({value.text}): it is a whole number of bytes from 1 to {limits.TOP_K_BYTES}",
            write=f"width={limits.TOP_K_BYTES_UNSAID}; count a code for what is longer",
        )
    return width
