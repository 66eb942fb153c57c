"""What a database's error means for whoever sent the statement."""

from __future__ import annotations

from enum import Enum

from sqlalchemy.exc import DBAPIError, IntegrityError


class Failure(Enum):
    """What can be done about it."""

    TRY_AGAIN = "try again"                # the whole transaction was, or must be, rolled back; the same one may be sent again
    UNAVAILABLE = "unavailable"            # the server is down, shutting down, read-only or full: wait
    DUPLICATE = "duplicate"
    NO_DATABASE = "no database"
    NO_LOGIN = "no login"                  # wrong user or password, or no right to the database
    NO_SQLITE = "no sqlite"                # the file is damaged, or of another kind
    REFUSED = "refused"                    # no such table, a value that does not fit


# MySQL and MariaDB: server errors by number, then the client's own.
_TRY_AGAIN = {1213, 1205, 3572}            # deadlock · lock wait timeout · lock not available
_NO_DATABASE = 1049
_NO_LOGIN = {1044, 1045, 1698}
_UNAVAILABLE = {
    1021, 1040, 1041, 1053, 1114, 1129, 1152, 1159, 1161, 1184, 1203, 1226,    # disk full, too many connections, shutdown, network
    1290, 1792, 1836, 1927, 3032, 3168, 3169, 4031,                            # read-only, killed, offline, idle too long
    2002, 2003, 2006, 2012, 2013, 2014, 2027, 2055,                            # PyMySQL: cannot connect, gone, lost
    0,                                                                         # PyMySQL: the connection is already closed
}
_SQLITE_TRY_AGAIN = ("SQLITE_BUSY", "SQLITE_LOCKED")
_SQLITE_DAMAGED = ("SQLITE_NOTADB", "SQLITE_CORRUPT")
_SQLITE_UNAVAILABLE = ("SQLITE_IOERR", "SQLITE_FULL", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PROTOCOL")


def failure_of(error: DBAPIError) -> Failure:
    """Classify by the driver's error number or name, never by its text."""
    origin = error.orig
    sqlite_name = getattr(origin, "sqlite_errorname", None)
    if isinstance(sqlite_name, str):
        if sqlite_name.startswith(_SQLITE_TRY_AGAIN):
            return Failure.TRY_AGAIN
        if sqlite_name.startswith(_SQLITE_UNAVAILABLE):
            return Failure.UNAVAILABLE
        if sqlite_name.startswith(_SQLITE_DAMAGED):
            return Failure.NO_SQLITE
    number = origin.args[0] if origin is not None and origin.args else None
    if number in _TRY_AGAIN:
        return Failure.TRY_AGAIN
    if isinstance(error, IntegrityError):
        return Failure.DUPLICATE
    if error.connection_invalidated or number in _UNAVAILABLE or isinstance(origin, OSError):
        return Failure.UNAVAILABLE
    if number in _NO_LOGIN:
        return Failure.NO_LOGIN
    return Failure.NO_DATABASE if number == _NO_DATABASE else Failure.REFUSED
