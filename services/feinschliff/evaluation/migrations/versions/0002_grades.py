"""Grades keep what was read, what a formula was given, and what judges were asked and said."""

import sqlalchemy as sa
from alembic import op

from feinschliff.kit.db import Json

revision = "0002"
down_revision = "0001"
_COLUMNS = ("fault", "raw", "label", "expected_label", "parts", "judgements")


def upgrade() -> None:
    with op.batch_alter_table("evaluation_grades") as grades:
        grades.add_column(sa.Column("fault", sa.String(length=20), nullable=False, server_default=""))
        grades.add_column(sa.Column("raw", sa.Float(), nullable=True))
        grades.add_column(sa.Column("label", sa.Text(), nullable=False, server_default=""))
        grades.add_column(sa.Column("expected_label", sa.Text(), nullable=False, server_default=""))
        grades.add_column(sa.Column("parts", Json, nullable=False, server_default="{}"))
        grades.add_column(sa.Column("judgements", Json, nullable=False, server_default="[]"))


def downgrade() -> None:
    with op.batch_alter_table("evaluation_grades") as grades:
        for column in _COLUMNS:
            grades.drop_column(column)
