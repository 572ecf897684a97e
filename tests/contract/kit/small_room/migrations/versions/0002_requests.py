"""The ledger of request ids."""

import sqlalchemy as sa
from alembic import op

from feinschliff.kit.db import UtcDateTime

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "small_requests",
        sa.Column("method", sa.String(200), primary_key=True),
        sa.Column("request_id", sa.String(64), primary_key=True),
        sa.Column("body_digest", sa.String(64), nullable=False),
        sa.Column("resource", sa.String(400), nullable=False),
        sa.Column("created", UtcDateTime, nullable=False),
    )
