"""Jobs know what they have used."""

import sqlalchemy as sa
from alembic import op

from feinschliff.kit.db import Json

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    with op.batch_alter_table("training_jobs") as jobs:
        jobs.add_column(sa.Column("consumption", Json, nullable=False, server_default="{}"))
    with op.batch_alter_table("training_jobs") as jobs:
        jobs.alter_column("consumption", server_default=None)
