"""The first tables of training."""

import sqlalchemy as sa
from alembic import op

from feinschliff.kit.db import Json, UtcDateTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "training_jobs",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("parent", sa.String(length=100), nullable=False),
        sa.Column("uid", sa.String(length=40), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("recipe", Json, nullable=False),
        sa.Column("inputs", Json, nullable=False),
        sa.Column("labels", Json, nullable=False),
        sa.Column("annotations", Json, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("barren_attempts", sa.Integer(), nullable=False),
        sa.Column("safe_step", sa.Integer(), nullable=False),
        sa.Column("not_before", UtcDateTime(), nullable=False),
        sa.Column("progress", Json, nullable=False),
        sa.Column("metrics", Json, nullable=False),
        sa.Column("failure", Json, nullable=True),
        sa.Column("model_version", sa.String(length=200), nullable=False),
        sa.Column("best_step", sa.Integer(), nullable=False),
        sa.Column("events", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.String(length=100), nullable=False),
        sa.Column("lease_until", UtcDateTime(), nullable=False),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.Column("started", UtcDateTime(), nullable=True),
        sa.Column("finished", UtcDateTime(), nullable=True),
        sa.Column("updated", UtcDateTime(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_training_jobs")),
        sa.UniqueConstraint("uid", name=op.f("uq_training_jobs_uid")),
    )
    op.create_index(op.f("ix_training_jobs_created"), "training_jobs", ["created"], unique=False)
    op.create_index(op.f("ix_training_jobs_parent"), "training_jobs", ["parent"], unique=False)
    op.create_index(op.f("ix_training_jobs_state"), "training_jobs", ["state"], unique=False)
    op.create_table(
        "training_requests",
        sa.Column("method", sa.String(length=200), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("body_digest", sa.String(length=64), nullable=False),
        sa.Column("resource", sa.String(length=400), nullable=False),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("method", "request_id", name=op.f("pk_training_requests")),
    )
    op.create_table(
        "training_attempts",
        sa.Column("name", sa.String(length=220), nullable=False),
        sa.Column("job", sa.String(length=200), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("first_step", sa.Integer(), nullable=False),
        sa.Column("heartbeat", UtcDateTime(), nullable=False),
        sa.Column("failure", Json, nullable=True),
        sa.Column("outcome", sa.String(length=20), nullable=False),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("started", UtcDateTime(), nullable=False),
        sa.Column("ended", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["job"], ["training_jobs.name"], name=op.f("fk_training_attempts_job"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_training_attempts")),
    )
    op.create_index(op.f("ix_training_attempts_job"), "training_attempts", ["job"], unique=False)
    op.create_table(
        "training_checkpoints",
        sa.Column("job", sa.String(length=200), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("uri", sa.String(length=600), nullable=False),
        sa.Column("digest", sa.String(length=80), nullable=False),
        sa.Column("metrics", Json, nullable=False),
        sa.Column("best", sa.Boolean(), nullable=False),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job"], ["training_jobs.name"], name=op.f("fk_training_checkpoints_job"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job", "step", name=op.f("pk_training_checkpoints")),
    )
    op.create_table(
        "training_events",
        sa.Column("job", sa.String(length=200), nullable=False),
        sa.Column("cursor", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("time", UtcDateTime(), nullable=False),
        sa.Column("level", sa.String(length=10), nullable=False),
        sa.Column("message", sa.String(), nullable=False),
        sa.Column("detail", Json, nullable=False),
        sa.ForeignKeyConstraint(
            ["job"], ["training_jobs.name"], name=op.f("fk_training_events_job"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job", "cursor", name=op.f("pk_training_events")),
        sa.UniqueConstraint("job", "key", name=op.f("uq_training_events_job_key")),
    )


def downgrade() -> None:
    for table in ["training_events", "training_checkpoints", "training_attempts", "training_requests", "training_jobs"]:
        op.drop_table(table)
