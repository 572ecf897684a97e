"""The first tables."""

import sqlalchemy as sa
from alembic import op

from feinschliff.kit.db import Json, UtcDateTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "small_items",
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("made", UtcDateTime),
        sa.Column("extra", Json),
    )
    op.create_table(
        "small_parts",
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("item", sa.String(100), sa.ForeignKey("small_items.name", ondelete="CASCADE"), nullable=False),
    )
