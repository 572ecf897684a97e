"""Models name the gate that each protected alias needs."""

import sqlalchemy as sa
from alembic import op

from feinschliff.kit.db import Json

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    with op.batch_alter_table("registry_models") as models:
        models.add_column(sa.Column("alias_gates", Json, nullable=False, server_default="{}"))
    with op.batch_alter_table("registry_models") as models:
        models.alter_column("alias_gates", server_default=None)
