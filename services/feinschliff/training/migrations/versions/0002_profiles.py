"""Jobs name the execution profile that they run with."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    with op.batch_alter_table("training_jobs") as jobs:
        jobs.add_column(sa.Column("profile", sa.String(length=40), nullable=False, server_default="local"))
    with op.batch_alter_table("training_jobs") as jobs:
        jobs.alter_column("profile", server_default=None)
