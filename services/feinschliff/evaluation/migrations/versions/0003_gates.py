"""Gates, their verdicts, calibrations of judges, and the rows measured for them."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from feinschliff.kit.db import Json, UtcDateTime

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "evaluation_gates",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("parent", sa.String(length=100), nullable=False),
        sa.Column("display_name", sa.String(length=256), nullable=False),
        sa.Column("rules", Json, nullable=False),
        sa.Column("labels", Json, nullable=False),
        sa.Column("annotations", Json, nullable=False),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.Column("updated", UtcDateTime(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_evaluation_gates")),
    )
    op.create_index(op.f("ix_evaluation_gates_parent"), "evaluation_gates", ["parent"], unique=False)
    op.create_table(
        "evaluation_verdicts",
        sa.Column("name", sa.String(length=300), nullable=False),
        sa.Column("gate", sa.String(length=200), nullable=False),
        sa.Column("project", sa.String(length=100), nullable=False),
        sa.Column("candidate", sa.String(length=300), nullable=False),
        sa.Column("baseline", sa.String(length=500), nullable=False),
        sa.Column("policy", Json, nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("outcomes", Json, nullable=False),
        *_work(),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_evaluation_verdicts")),
    )
    for column in ("gate", "project", "state"):
        op.create_index(op.f(f"ix_evaluation_verdicts_{column}"), "evaluation_verdicts", [column], unique=False)
    op.create_table(
        "evaluation_calibrations",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("parent", sa.String(length=100), nullable=False),
        sa.Column("grader", Json, nullable=False),
        sa.Column("dataset_version", sa.String(length=300), nullable=False),
        sa.Column("label_path", sa.String(length=1000), nullable=False),
        sa.Column("answer_path", sa.String(length=1000), nullable=False),
        sa.Column("other_answer_path", sa.String(length=1000), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("measured", Json, nullable=True),
        sa.Column("identity", Json, nullable=True),
        *_work(),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_evaluation_calibrations")),
    )
    for column in ("parent", "state"):
        op.create_index(op.f(f"ix_evaluation_calibrations_{column}"), "evaluation_calibrations", [column], unique=False)
    op.create_table(
        "evaluation_measured",
        sa.Column("owner", sa.String(length=300), nullable=False),
        sa.Column("part", sa.String(length=64), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("data", Json, nullable=False),
        sa.PrimaryKeyConstraint("owner", "part", "position", name=op.f("pk_evaluation_measured")),
    )


def _work() -> list[sa.Column[Any]]:
    """What all long work has: how far it is, who works on it, when it began and ended."""
    return [
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("failure", Json, nullable=True),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("lease_owner", sa.String(length=100), nullable=False),
        sa.Column("lease_until", UtcDateTime(), nullable=False),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.Column("finished", UtcDateTime(), nullable=True),
        sa.Column("changes", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
    ]


def downgrade() -> None:
    for table in ["evaluation_measured", "evaluation_calibrations", "evaluation_verdicts", "evaluation_gates"]:
        op.drop_table(table)
