"""A delta has its day: what ended before midnight is of that day, whenever it is folded."""

from alembic import op

revision = "0008"
down_revision = "0007"

# The day of its transaction, as the moment at which its results were completed.
DELTAS = """
alter table deltas add column day date not null default (now() at time zone 'utc')::date
"""


def upgrade() -> None:
    op.execute(DELTAS)
