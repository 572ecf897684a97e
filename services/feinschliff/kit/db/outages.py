"""What a driver raises when the database is away or two writers meet, as refusals."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import exc as sa_exc
from sqlalchemy.orm.exc import StaleDataError

from feinschliff.kit.errors import Conflict, Unavailable

_SQLITE_DOWN = {5, 6, 10, 13, 14}  # busy, locked, I/O error, full, cannot open


@contextmanager
def outages() -> Iterator[None]:
    try:
        yield
    except StaleDataError as error:
        raise Conflict("ROW_CHANGED", "Someone else changed it first; read it again and retry.") from error
    except sa_exc.TimeoutError as error:
        raise _down("All connections to the database are in use.") from error
    except sa_exc.DBAPIError as error:
        if _sqlstate(error) in ("40001", "40P01"):
            raise Conflict("WRITE_CONFLICT", "Two writers met; try again.", retry_after_seconds=0.1) from error
        if _is_outage(error):
            raise _down("The database does not answer.") from error
        raise


def _down(message: str) -> Unavailable:
    return Unavailable("DATABASE_UNAVAILABLE", f"{message} Try again shortly.", retry_after_seconds=1)


def _sqlstate(error: sa_exc.DBAPIError) -> str | None:
    state = getattr(error.orig, "sqlstate", None)
    return state if isinstance(state, str) else None


def _is_outage(error: sa_exc.DBAPIError) -> bool:
    if error.connection_invalidated:
        return True
    if not isinstance(error, sa_exc.OperationalError):
        return False
    code = getattr(error.orig, "sqlite_errorcode", None)
    if isinstance(code, int):
        return code & 0xFF in _SQLITE_DOWN
    state = _sqlstate(error)
    return state is None or state[:2] in ("08", "53", "57")
