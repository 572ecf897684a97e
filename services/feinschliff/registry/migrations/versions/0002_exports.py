"""Exports: models written in another form, such as several adapters as one."""

import sqlalchemy as sa
from alembic import op

from feinschliff.kit.db import Json, UtcDateTime

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "registry_exports",
        sa.Column("name", sa.String(length=260), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("project", sa.String(length=100), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("wish", Json, nullable=False),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.Column("lease_until", UtcDateTime(), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("artifact_uri", sa.String(length=600), nullable=False),
        sa.Column("artifact_sha256", sa.String(length=64), nullable=False),
        sa.Column("files", Json, nullable=False),
        sa.Column("result_version", sa.String(length=220), nullable=False),
        sa.Column("failure", Json, nullable=False),
        sa.Column("finished", UtcDateTime()),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_registry_exports")),
    )
    op.create_index(op.f("ix_registry_exports_model"), "registry_exports", ["model"], unique=False)
    op.create_index(op.f("ix_registry_exports_project"), "registry_exports", ["project"], unique=False)
    op.create_index(op.f("ix_registry_exports_state"), "registry_exports", ["state"], unique=False)
