"""The first tables of inference."""

import sqlalchemy as sa
from alembic import op

from feinschliff.kit.db import Json, UtcDateTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "inference_deployments",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("parent", sa.String(length=100), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("spec", Json, nullable=False),
        sa.Column("status", Json, nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("deleted", sa.Boolean(), nullable=False),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.Column("updated", UtcDateTime(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_inference_deployments")),
    )
    op.create_index(op.f("ix_inference_deployments_parent"), "inference_deployments", ["parent"])
    op.create_table(
        "inference_requests",
        sa.Column("method", sa.String(length=200), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("body_digest", sa.String(length=64), nullable=False),
        sa.Column("resource", sa.String(length=400), nullable=False),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("method", "request_id", name=op.f("pk_inference_requests")),
    )


def downgrade() -> None:
    for table in ["inference_requests", "inference_deployments"]:
        op.drop_table(table)
