"""Tables of the small room."""

from sqlalchemy import Column, ForeignKey, Integer, String, Table

from feinschliff.kit.db import Json, UtcDateTime, metadata_for
from feinschliff.kit.idempotency import Ledger

ROOM = "small"
MIGRATIONS = "tests.contract.kit.small_room.migrations"
METADATA = metadata_for(ROOM)
LEDGER = Ledger(METADATA, ROOM)

ITEMS = Table(
    "small_items",
    METADATA,
    Column("name", String(100), primary_key=True),
    Column("count", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("made", UtcDateTime),
    Column("extra", Json),
    Column("note", String(100), nullable=False, server_default=""),
)
PARTS = Table(
    "small_parts",
    METADATA,
    Column("name", String(100), primary_key=True),
    Column("item", String(100), ForeignKey(ITEMS.c.name, ondelete="CASCADE"), nullable=False),
)
