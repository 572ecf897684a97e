"""Datasets, versions, removals and the requests that made them."""

import sqlalchemy as sa
from alembic import op

from feinschliff.kit.db import Json, UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "ingestion_datasets",
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("display_name", sa.String(256), nullable=False),
        sa.Column("description", sa.String(4096), nullable=False),
        sa.Column("labels", Json, nullable=False),
        sa.Column("annotations", Json, nullable=False),
        sa.Column("created", UtcDateTime, nullable=False),
        sa.Column("updated", UtcDateTime, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("project", "id", name="pk_ingestion_datasets"),
    )
    op.create_table(
        "ingestion_versions",
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("dataset", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("lease_until", UtcDateTime, nullable=False),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("split", Json, nullable=False),
        sa.Column("labels", Json, nullable=False),
        sa.Column("annotations", Json, nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("header_digest", sa.String(64), nullable=False),
        sa.Column("made_dataset", sa.Boolean, nullable=False),
        sa.Column("received_bytes", sa.BigInteger, nullable=False),
        sa.Column("expected_bytes", sa.BigInteger, nullable=False),
        sa.Column("format", sa.String(40), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("facts", sa.JSON(none_as_null=True)),
        sa.Column("created", UtcDateTime, nullable=False),
        sa.Column("ready", UtcDateTime),
        sa.Column("version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("project", "dataset", "number", name="pk_ingestion_versions"),
        sa.ForeignKeyConstraint(
            ["project", "dataset"],
            ["ingestion_datasets.project", "ingestion_datasets.id"],
            name="fk_ingestion_versions_project_dataset",
        ),
    )
    op.create_index("ix_ingestion_versions_state", "ingestion_versions", ["state"])
    op.create_index("ix_ingestion_versions_request", "ingestion_versions", ["project", "dataset", "request_id"])
    op.create_table(
        "ingestion_removals",
        sa.Column("prefix", sa.String(400), nullable=False),
        sa.Column("created", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("prefix", name="pk_ingestion_removals"),
    )
    op.create_table(
        "ingestion_requests",
        sa.Column("method", sa.String(200), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("body_digest", sa.String(64), nullable=False),
        sa.Column("resource", sa.String(400), nullable=False),
        sa.Column("created", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("method", "request_id", name="pk_ingestion_requests"),
    )


def downgrade() -> None:
    for table in ("requests", "removals", "versions", "datasets"):
        op.drop_table(f"ingestion_{table}")
