"""The first tables of registry."""

import sqlalchemy as sa
from alembic import op

from feinschliff.kit.db import Json, UtcDateTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "registry_alias_moves",
        sa.Column("alias", sa.String(length=220), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("previous", sa.String(length=220), nullable=False),
        sa.Column("current", sa.String(length=220), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("verdict", sa.String(length=220), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("rollback", sa.Boolean(), nullable=False),
        sa.Column("time", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("alias", "sequence", name=op.f("pk_registry_alias_moves")),
    )
    op.create_table(
        "registry_edges",
        sa.Column("source", sa.String(length=400), nullable=False),
        sa.Column("target", sa.String(length=400), nullable=False),
        sa.Column("relation", sa.String(length=40), nullable=False),
        sa.Column("digest", sa.String(length=80), nullable=False),
        sa.PrimaryKeyConstraint("source", "target", "relation", name=op.f("pk_registry_edges")),
    )
    op.create_index(op.f("ix_registry_edges_target"), "registry_edges", ["target"], unique=False)
    op.create_table(
        "registry_models",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("parent", sa.String(length=100), nullable=False),
        sa.Column("display_name", sa.String(length=256), nullable=False),
        sa.Column("description", sa.String(), nullable=False),
        sa.Column("labels", Json, nullable=False),
        sa.Column("annotations", Json, nullable=False),
        sa.Column("protected_aliases", Json, nullable=False),
        sa.Column("versions_made", sa.Integer(), nullable=False),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.Column("updated", UtcDateTime(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_registry_models")),
    )
    op.create_index(op.f("ix_registry_models_parent"), "registry_models", ["parent"], unique=False)
    op.create_table(
        "registry_requests",
        sa.Column("method", sa.String(length=200), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("body_digest", sa.String(length=64), nullable=False),
        sa.Column("resource", sa.String(length=400), nullable=False),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("method", "request_id", name=op.f("pk_registry_requests")),
    )
    op.create_table(
        "registry_aliases",
        sa.Column("name", sa.String(length=220), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("model_version", sa.String(length=220), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("verdict", sa.String(length=220), nullable=False),
        sa.Column("moves", sa.Integer(), nullable=False),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.Column("updated", UtcDateTime(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["model"], ["registry_models.name"], name=op.f("fk_registry_aliases_model")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_registry_aliases")),
    )
    op.create_index(op.f("ix_registry_aliases_model"), "registry_aliases", ["model"], unique=False)
    op.create_index(op.f("ix_registry_aliases_model_version"), "registry_aliases", ["model_version"], unique=False)
    op.create_table(
        "registry_versions",
        sa.Column("name", sa.String(length=220), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("project", sa.String(length=100), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("base_model", sa.String(length=400), nullable=False),
        sa.Column("base_digest", sa.String(length=80), nullable=False),
        sa.Column("adapter_uri", sa.String(length=600), nullable=False),
        sa.Column("adapter_digest", sa.String(length=80), nullable=False),
        sa.Column("training_job", sa.String(length=200), nullable=False),
        sa.Column("parent_version", sa.String(length=220), nullable=False),
        sa.Column("public_name", sa.String(length=256), nullable=False),
        sa.Column("deprecation_reason", sa.String(), nullable=False),
        sa.Column("labels", Json, nullable=False),
        sa.Column("annotations", Json, nullable=False),
        sa.Column("datasets", Json, nullable=False),
        sa.Column("record", Json, nullable=False),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["model"], ["registry_models.name"], name=op.f("fk_registry_versions_model")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_registry_versions")),
    )
    op.create_index(op.f("ix_registry_versions_model"), "registry_versions", ["model"], unique=False)
    op.create_index(op.f("ix_registry_versions_project"), "registry_versions", ["project"], unique=False)
    op.create_index(op.f("ix_registry_versions_public_name"), "registry_versions", ["public_name"], unique=False)
    op.create_index(op.f("ix_registry_versions_training_job"), "registry_versions", ["training_job"], unique=False)


def downgrade() -> None:
    for table in [
        "registry_versions",
        "registry_aliases",
        "registry_requests",
        "registry_models",
        "registry_edges",
        "registry_alias_moves",
    ]:
        op.drop_table(table)
