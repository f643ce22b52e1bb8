"""Callers take turns in the queue, and batches are led under a lease."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "job_turns",
        sa.Column("caller_id", sa.String(length=36), nullable=False),
        sa.Column("turn", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("caller_id"),
    )
    op.drop_index("jobs_next", table_name="jobs")
    op.create_index(
        "jobs_next",
        "jobs",
        ["state", "caller_id", sa.text("priority DESC"), "submitted_at", "number", "kind", "not_before"],
        unique=False,
    )
    op.add_column("batches", sa.Column("leader", sa.String(length=36), nullable=True))
    op.add_column("batches", sa.Column("led_until", sa.BigInteger(), nullable=True))
