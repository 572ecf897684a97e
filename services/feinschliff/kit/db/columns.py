"""Column types that mean the same on both databases, and the tables that every room has."""

from datetime import UTC, datetime
from functools import lru_cache

from sqlalchemy import JSON, Column, DateTime, Dialect, MetaData, String, Table, TypeDecorator
from sqlalchemy.dialects import postgresql

Json = JSON().with_variant(postgresql.JSONB(), "postgresql")
_NAMES = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC, always with its zone; a naive one is refused."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


@lru_cache(maxsize=64)
def metadata_for(room: str) -> MetaData:
    """The room's tables; the same object for the same room."""
    return MetaData(naming_convention=_NAMES, info={"room": room})


def request_table(metadata: MetaData, room: str) -> Table:
    """The table behind `kit.idempotency.Ledger`."""
    return Table(
        f"{room}_requests",
        metadata,
        Column("method", String(200), primary_key=True),
        Column("request_id", String(64), primary_key=True),
        Column("body_digest", String(64), nullable=False),
        Column("resource", String(400), nullable=False),
        Column("created", UtcDateTime, nullable=False),
    )
