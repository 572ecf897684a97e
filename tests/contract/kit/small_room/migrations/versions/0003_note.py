"""A column that is not null, which SQLite adds by building the table anew."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    with op.batch_alter_table("small_items", recreate="auto") as items:
        items.add_column(sa.Column("note", sa.String(100), nullable=False, server_default=""))
        items.alter_column("count", existing_type=sa.Integer, nullable=False, server_default="0")
