"""Items say which rows are equal, empty for those stored before; runs count the tokens of judging models."""

import sqlalchemy as sa
from alembic import op

from feinschliff.kit.db import Json

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    with op.batch_alter_table("evaluation_items") as items:
        items.add_column(sa.Column("row_key", sa.String(length=32), nullable=False, server_default=""))
    with op.batch_alter_table("evaluation_runs") as runs:
        runs.add_column(sa.Column("judge_usage", Json, nullable=True))
