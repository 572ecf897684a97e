"""Exports know how often who worked at them vanished."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    with op.batch_alter_table("registry_exports") as exports:
        exports.add_column(sa.Column("workers_lost", sa.Integer(), nullable=False, server_default="0"))
    with op.batch_alter_table("registry_exports") as exports:
        exports.alter_column("workers_lost", server_default=None)
