"""A project says which kinds of personal data are replaced before its exchanges are stored."""

import sqlalchemy as sa
from alembic import op

from feinschliff.kit.db import Json

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    with op.batch_alter_table("ingestion_completion_policies") as policies:
        policies.add_column(sa.Column("redact", Json, nullable=False, server_default="[]"))
    with op.batch_alter_table("ingestion_completion_policies") as policies:
        policies.alter_column("redact", server_default=None)


def downgrade() -> None:
    with op.batch_alter_table("ingestion_completion_policies") as policies:
        policies.drop_column("redact")
