"""One database of history: its connections, transactions that are sent again, and the driver's errors as ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from sqlalchemy import Connection, inspect
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from featureflow.errors import HistoryError, TablesMissingError, UnavailableError, UnknownOutcomeError
from featureflow.store.history.engine import IMMEDIATE, engine_of
from featureflow.store.history.failure import Failure, failure_of
from featureflow.store.history.fixed_tables import FIXED

T = TypeVar("T")
ATTEMPTS = 8                               # of one transaction, when the server says that it lost a deadlock


class _TryAgainError(UnavailableError):
    """The transaction was rolled back whole and may be sent again."""


class Database:
    """Safe to use from several threads; connections are pooled. ``setting`` names the setting that ``url`` came from, for messages."""

    def __init__(self, url: str, *, setting: str) -> None:
        self._setting = setting
        self.engine = engine_of(url, setting=setting)
        self.place = self.engine.url.set(query={}).render_as_string(hide_password=True)      # options may hold secrets

    def close(self) -> None:
        """Let go of its connections."""
        self.engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection to read by. Raises UnavailableError, HistoryError."""
        with self._reporting("a read"), self.engine.connect() as connection:
            yield connection

    def transact(self, work: Callable[[Connection], T], *, what: str = "this change") -> T:
        """Run ``work`` in one transaction; again, from its start, as long as the server says that it lost a deadlock.

        Raises what ``work`` raises, and nothing is written then; UnavailableError, HistoryError; UnknownOutcomeError where the connection
        broke during COMMIT: the caller looks what is stored.
        """
        attempts = Retrying(
            retry=retry_if_exception_type(_TryAgainError),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.02, max=1),
            reraise=True,
        )
        try:
            for attempt in attempts:
                with attempt:
                    return self._once(work, what)
        except _TryAgainError as error:
            raise UnavailableError(
                f"{what}: the database at {self.place} ({self._setting}) rolled the transaction back {ATTEMPTS} times "
                f"(deadlock or lock wait): {error.__cause__}"
            ) from error
        raise AssertionError("tenacity gave up without an error")

    def _once(self, work: Callable[[Connection], T], what: str) -> T:
        with self._reporting(what), self.engine.connect().execution_options(**{IMMEDIATE: True}) as connection:
            transaction = connection.begin()
            try:
                result = work(connection)
            except BaseException:
                with suppress(DBAPIError):     # the connection may be what broke
                    transaction.rollback()
                raise
            try:
                transaction.commit()
            except DBAPIError as error:
                if failure_of(error) is Failure.TRY_AGAIN:
                    raise
                raise UnknownOutcomeError(
                    f"{what}: the connection to {self.place} ({self._setting}) broke during COMMIT, which may have "
                    f"been done or not: {error.orig}"
                ) from error
            return result

    @contextmanager
    def _reporting(self, what: str) -> Iterator[None]:
        """Turn the driver's errors into ours."""
        try:
            yield
        except DBAPIError as error:
            match failure_of(error):
                case Failure.TRY_AGAIN:
                    raise _TryAgainError(str(error.orig)) from error
                case Failure.UNAVAILABLE:
                    raise UnavailableError(
                        f"the history database at {self.place} does not take {what}: {error.orig}. Start it, or correct {self._setting}"
                    ) from error
                case Failure.DUPLICATE:
                    raise HistoryError(f"{what}: {self.place} holds such a row already: {error.orig}") from error
                case Failure.NO_DATABASE:
                    raise HistoryError(
                        f"{what} was refused by {self.place}: {error.orig}. Create the database, or correct {self._setting}"
                    ) from error
                case Failure.NO_SQLITE:
                    raise HistoryError(
                        f"{what} was refused by {self.place}: {error.orig}. Restore it from a copy, or name another in {self._setting}"
                    ) from error
                case Failure.NO_LOGIN:
                    raise HistoryError(
                        f"{what} was refused by {self.place}: {error.orig}. Correct user and password in {self._setting}, or give that "
                        "user its rights"
                    ) from error
                case Failure.REFUSED if self._tables_missing():
                    raise TablesMissingError(
                        f"the history database at {self.place} ({self._setting}) lacks tables. Run: featureflow apply"
                    ) from error
                case Failure.REFUSED:
                    raise HistoryError(
                        f"{what} was refused by {self.place} ({self._setting}): {error.orig}. If a column or an event's "
                        "table is missing, run: featureflow apply"
                    ) from error
        except SQLAlchemyError as error:
            raise HistoryError(f"{what} on {self.place} ({self._setting}): {error}") from error

    def _tables_missing(self) -> bool:
        try:
            return not FIXED.tables.keys() <= set(inspect(self.engine).get_table_names())
        except SQLAlchemyError:
            return False
