"""A room's database: SQLite or PostgreSQL, one set of promises."""

from sqlalchemy import MetaData, Table
from sqlalchemy.orm import Session

from feinschliff.kit.db.columns import Json, UtcDateTime, metadata_for, request_table
from feinschliff.kit.db.database import Database
from feinschliff.kit.db.migrate import Moved, run_env
from feinschliff.kit.db.writes import insert_ignore, select_one, update_versioned

__all__ = [
    "Database",
    "Json",
    "MetaData",
    "Moved",
    "Session",
    "Table",
    "UtcDateTime",
    "insert_ignore",
    "metadata_for",
    "request_table",
    "run_env",
    "select_one",
    "update_versioned",
]
