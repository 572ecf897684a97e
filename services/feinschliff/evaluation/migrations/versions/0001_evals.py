"""The first tables of evaluation."""

import sqlalchemy as sa
from alembic import op

from feinschliff.kit.db import Json, UtcDateTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "evaluation_evals",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("parent", sa.String(length=100), nullable=False),
        sa.Column("display_name", sa.String(length=256), nullable=False),
        sa.Column("description", sa.String(length=4096), nullable=False),
        sa.Column("dataset_version", sa.String(length=300), nullable=False),
        sa.Column("prompt", Json, nullable=False),
        sa.Column("graders", Json, nullable=False),
        sa.Column("sampling", Json, nullable=False),
        sa.Column("split", sa.String(length=20), nullable=False),
        sa.Column("labels", Json, nullable=False),
        sa.Column("annotations", Json, nullable=False),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.Column("updated", UtcDateTime(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_evaluation_evals")),
    )
    op.create_index(op.f("ix_evaluation_evals_parent"), "evaluation_evals", ["parent"], unique=False)
    op.create_table(
        "evaluation_requests",
        sa.Column("method", sa.String(length=200), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("body_digest", sa.String(length=64), nullable=False),
        sa.Column("resource", sa.String(length=400), nullable=False),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("method", "request_id", name=op.f("pk_evaluation_requests")),
    )
    op.create_table(
        "evaluation_runs",
        sa.Column("name", sa.String(length=300), nullable=False),
        sa.Column("eval", sa.String(length=200), nullable=False),
        sa.Column("project", sa.String(length=100), nullable=False),
        sa.Column("display_name", sa.String(length=256), nullable=False),
        sa.Column("model", sa.String(length=500), nullable=False),
        sa.Column("dataset_version", sa.String(length=300), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("sampling", Json, nullable=False),
        sa.Column("prompt", Json, nullable=True),
        sa.Column("answer_path", sa.String(length=1000), nullable=False),
        sa.Column("split", sa.String(length=20), nullable=False),
        sa.Column("limit", sa.BigInteger(), nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        sa.Column("labels", Json, nullable=False),
        sa.Column("annotations", Json, nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("failure", Json, nullable=True),
        sa.Column("results", Json, nullable=True),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("lease_owner", sa.String(length=100), nullable=False),
        sa.Column("lease_until", UtcDateTime(), nullable=False),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.Column("started", UtcDateTime(), nullable=True),
        sa.Column("finished", UtcDateTime(), nullable=True),
        sa.Column("changes", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["eval"], ["evaluation_evals.name"], name=op.f("fk_evaluation_runs_eval"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_evaluation_runs")),
    )
    op.create_index(op.f("ix_evaluation_runs_eval"), "evaluation_runs", ["eval"], unique=False)
    op.create_index(op.f("ix_evaluation_runs_project"), "evaluation_runs", ["project"], unique=False)
    op.create_index(op.f("ix_evaluation_runs_state"), "evaluation_runs", ["state"], unique=False)
    op.create_table(
        "evaluation_items",
        sa.Column("run", sa.String(length=300), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("item", Json, nullable=False),
        sa.Column("prompt", Json, nullable=False),
        sa.Column("message", Json, nullable=True),
        sa.Column("finish_reason", sa.String(length=20), nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("completion_tokens", sa.Integer(), nullable=False),
        sa.Column("cached_tokens", sa.Integer(), nullable=False),
        sa.Column("reasoning_tokens", sa.Integer(), nullable=False),
        sa.Column("latency_seconds", sa.Float(), nullable=False),
        sa.Column("model_version", sa.String(), nullable=True),
        sa.Column("base_digest", sa.String(), nullable=True),
        sa.Column("adapter_digest", sa.String(), nullable=True),
        sa.Column("template_hash", sa.String(), nullable=True),
        sa.Column("passed", sa.Boolean(), nullable=True),
        sa.Column("errored", sa.Boolean(), nullable=False),
        sa.Column("error", Json, nullable=True),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run"], ["evaluation_runs.name"], name=op.f("fk_evaluation_items_run"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run", "position", name=op.f("pk_evaluation_items")),
        sa.UniqueConstraint("run", "line", name=op.f("uq_evaluation_items_run_line")),
    )
    op.create_table(
        "evaluation_grades",
        sa.Column("run", sa.String(length=300), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("grader", sa.String(length=100), nullable=False),
        sa.Column("value", sa.Float(), nullable=True),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("why", sa.String(length=4096), nullable=False),
        sa.ForeignKeyConstraint(
            ["run", "position"],
            ["evaluation_items.run", "evaluation_items.position"],
            name=op.f("fk_evaluation_grades_run_position"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("run", "position", "ordinal", name=op.f("pk_evaluation_grades")),
    )


def downgrade() -> None:
    for table in [
        "evaluation_grades",
        "evaluation_items",
        "evaluation_runs",
        "evaluation_requests",
        "evaluation_evals",
    ]:
        op.drop_table(table)
