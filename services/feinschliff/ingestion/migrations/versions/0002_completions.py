"""Stored exchanges, judgements of them, and what projects keep."""

import sqlalchemy as sa
from alembic import op

from feinschliff.kit.db import Json, UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "ingestion_completions",
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("created", UtcDateTime, nullable=False),
        sa.Column("model", sa.String(1024), nullable=False),
        sa.Column("deployment", sa.String(400), nullable=False),
        sa.Column("finish_reason", sa.String(40), nullable=False),
        sa.Column("user", sa.String(64), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("metadata", Json, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("content_bytes", sa.BigInteger, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("project", "id", name="pk_ingestion_completions"),
    )
    op.create_index("ix_ingestion_completions_created", "ingestion_completions", ["project", "created", "id"])
    op.create_index("ix_ingestion_completions_user", "ingestion_completions", ["project", "user"])
    op.create_table(
        "ingestion_feedback",
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("completion", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("created", UtcDateTime, nullable=False),
        sa.Column("value", sa.Float),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("correction", sa.Text),
        sa.Column("author", sa.String(128), nullable=False),
        sa.Column("labels", Json, nullable=False),
        sa.Column("content_bytes", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("project", "completion", "id", name="pk_ingestion_feedback"),
        sa.ForeignKeyConstraint(
            ["project", "completion"],
            ["ingestion_completions.project", "ingestion_completions.id"],
            name="fk_ingestion_feedback_project_completion",
        ),
    )
    op.create_index("ix_ingestion_feedback_created", "ingestion_feedback", ["project", "created", "completion", "id"])
    op.create_table(
        "ingestion_completion_policies",
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("retention_days", sa.Integer, nullable=False),
        sa.Column("sampled_fraction", sa.Float, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("project", name="pk_ingestion_completion_policies"),
    )


def downgrade() -> None:
    for table in ("completion_policies", "feedback", "completions"):
        op.drop_table(f"ingestion_{table}")
