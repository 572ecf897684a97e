"""Jobs know the model version of each task that has an adapter of its own."""

import sqlalchemy as sa
from alembic import op

from feinschliff.kit.db import Json

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    with op.batch_alter_table("training_jobs") as jobs:
        jobs.add_column(sa.Column("task_versions", Json, nullable=False, server_default="{}"))
    with op.batch_alter_table("training_jobs") as jobs:
        jobs.alter_column("task_versions", server_default=None)
