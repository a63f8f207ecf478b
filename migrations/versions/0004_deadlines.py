"""Deadlines of requests by themselves: kept with them, and the nearest found first."""

from alembic import op

revision = "0004"
down_revision = "0003"

# A line of a batch has its batch's deadline and none of its own: the index holds only rows that
# came with one.
DEADLINES = """
alter table requests add column deadline timestamptz;
create index queue_by_deadline on queue (model, class, team_id, deadline, id)
    where state = 0 and deadline is not null;
"""


def upgrade() -> None:
    for statement in DEADLINES.split(";\n"):
        if statement.strip():
            op.execute(statement)
