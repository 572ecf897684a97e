"""Items say which rows are equal, so that intervals count them once; empty for items that were stored before."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    with op.batch_alter_table("evaluation_items") as items:
        items.add_column(sa.Column("row_key", sa.String(length=32), nullable=False, server_default=""))
