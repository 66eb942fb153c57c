"""Which versions of models are released: recorded in SQL, mirrored in the online store, so that scorers read it there and serve while
SQL is down.

What a release says is a document to this room; ``models.release`` knows what is in it.

1. a step adds a row with the next number, which fails where another step has taken it meanwhile
2. the newest row of every model goes into the mirror, and is read again until it is what was put there: of two steps at the same time
   the one that mirrors last has seen both
"""

from __future__ import annotations

import msgspec
from msgspec.structs import asdict

from featureflow.errors import HistoryError, TablesMissingError
from featureflow.store.history.protocol import HistoryStore, Statement
from featureflow.store.mirror import RELEASES_DOCUMENT
from featureflow.store.online.protocol import OnlineStore


class ReleaseRow(msgspec.Struct, frozen=True):
    """One release of one model. ``document``: JSON of ``models.release.Release``."""

    model: str
    number: int
    made_at_us: int
    document: str


class Releases:
    """Of one project. Raises UnavailableError where a store does not answer."""

    def __init__(self, history: HistoryStore, online: OnlineStore) -> None:
        self._history, self._online = history, online

    def of(self, model: str) -> list[ReleaseRow]:
        """All releases of a model, oldest first. Raises TablesMissingError before the first ``apply``."""
        return [msgspec.convert(row, ReleaseRow) for row in self._history.query("releases_of", {"model": model})]

    def newest(self) -> dict[str, ReleaseRow]:
        """Model -> the release that is in force."""
        rows = self._history.query("newest_releases", {})
        return {row.model: row for row in (msgspec.convert(row, ReleaseRow) for row in rows)}

    def add(self, row: ReleaseRow) -> None:
        """Steps 1 and 2. Raises HistoryError where the model has a release of this number already."""
        # 1
        try:
            self._history.execute([Statement("record_release", asdict(row))])
        except TablesMissingError:
            raise
        except HistoryError as error:
            if any(known.number == row.number for known in self.of(row.model)):
                raise HistoryError(
                    f"{row.model} has a release {row.number} already: another command made one meanwhile. Look at it, then try again: "
                    f"featureflow model releases {row.model}"
                ) from error
            raise
        # 2
        self.mirror()

    def mirror(self) -> None:
        """Step 2: what is recorded, for whoever reads the online store. Nothing where nothing was ever released."""
        put = None
        while put != (document := self._document()):
            if document is None:
                return
            self._online.put_meta(RELEASES_DOCUMENT, document)
            put = document

    def is_mirrored(self) -> bool:
        """Whether the online store says what is recorded."""
        return self._online.get_meta(RELEASES_DOCUMENT) == self._document()

    def _document(self) -> bytes | None:
        try:
            newest = self.newest()
        except TablesMissingError:
            return None
        return msgspec.json.encode({name: msgspec.Raw(row.document.encode()) for name, row in newest.items()}) if newest else None
