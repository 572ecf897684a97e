"""Runs over rows of their own and several answers per row; prompts as objects, and the search for better ones."""

import sqlalchemy as sa
from alembic import op

from feinschliff.kit.db import Json, UtcDateTime

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    with op.batch_alter_table("evaluation_evals") as evals:
        evals.add_column(sa.Column("item_schema", Json, nullable=True))
    with op.batch_alter_table("evaluation_runs") as runs:
        runs.add_column(sa.Column("samples", sa.Integer(), nullable=False, server_default="1"))
        runs.add_column(sa.Column("has_own_rows", sa.Boolean(), nullable=False, server_default=sa.false()))
        runs.add_column(sa.Column("tools", Json, nullable=True))
        runs.add_column(sa.Column("completions", Json, nullable=True))
        runs.add_column(sa.Column("examples", Json, nullable=True))
    with op.batch_alter_table("evaluation_items") as items:
        items.add_column(sa.Column("sample_index", sa.Integer(), nullable=False, server_default="0"))
        items.drop_constraint(op.f("uq_evaluation_items_run_line"), type_="unique")
        items.create_unique_constraint(
            op.f("uq_evaluation_items_run_line_sample_index"), ["run", "line", "sample_index"]
        )
    op.create_table(
        "evaluation_rows",
        sa.Column("run", sa.String(length=300), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("data", Json, nullable=False),
        sa.ForeignKeyConstraint(
            ["run"], ["evaluation_runs.name"], name=op.f("fk_evaluation_rows_run"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run", "position", name=op.f("pk_evaluation_rows")),
    )
    _create_prompts()
    _create_optimizations()


def _create_prompts() -> None:
    op.create_table(
        "evaluation_prompts",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("project", sa.String(length=100), nullable=False),
        sa.Column("prompt", sa.String(length=190), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("messages", Json, nullable=False),
        sa.Column("tools", Json, nullable=False),
        sa.Column("sampling", Json, nullable=False),
        sa.Column("description", sa.String(length=4096), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("labels", Json, nullable=False),
        sa.Column("annotations", Json, nullable=False),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_evaluation_prompts")),
        sa.UniqueConstraint("prompt", "number", name=op.f("uq_evaluation_prompts_prompt_number")),
    )
    op.create_index(op.f("ix_evaluation_prompts_project"), "evaluation_prompts", ["project"], unique=False)


def _create_optimizations() -> None:
    op.create_table(
        "evaluation_optimizations",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("project", sa.String(length=100), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("eval", sa.String(length=200), nullable=False),
        sa.Column("model", sa.String(length=500), nullable=False),
        sa.Column("proposer_model", sa.String(length=500), nullable=False),
        sa.Column("start_prompt", sa.String(length=200), nullable=False),
        sa.Column("candidates_max", sa.Integer(), nullable=False),
        sa.Column("examples_max", sa.Integer(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("best_prompt", sa.String(length=200), nullable=False),
        sa.Column("candidates", Json, nullable=False),
        sa.Column("held_out", Json, nullable=False),
        sa.Column("proposer_usage", Json, nullable=False),
        sa.Column("failure", Json, nullable=True),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("lease_owner", sa.String(length=100), nullable=False),
        sa.Column("lease_until", UtcDateTime(), nullable=False),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.Column("finished", UtcDateTime(), nullable=True),
        sa.Column("changes", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_evaluation_optimizations")),
    )
    for column in ("project", "state"):
        name = op.f(f"ix_evaluation_optimizations_{column}")
        op.create_index(name, "evaluation_optimizations", [column], unique=False)


def downgrade() -> None:
    for table in ("evaluation_optimizations", "evaluation_prompts", "evaluation_rows"):
        op.drop_table(table)
    with op.batch_alter_table("evaluation_items") as items:
        items.drop_constraint(op.f("uq_evaluation_items_run_line_sample_index"), type_="unique")
        items.create_unique_constraint(op.f("uq_evaluation_items_run_line"), ["run", "line"])
        items.drop_column("sample_index")
    with op.batch_alter_table("evaluation_runs") as runs:
        for column in ("examples", "completions", "tools", "has_own_rows", "samples"):
            runs.drop_column(column)
    with op.batch_alter_table("evaluation_evals") as evals:
        evals.drop_column("item_schema")
