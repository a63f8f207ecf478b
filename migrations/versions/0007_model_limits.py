"""A provider's limits are of a model: each has a budget of its own."""

from alembic import op

revision = "0007"
down_revision = "0006"

# Beside `rate_limits`, which counts for a whole backend and is left to the processes of the version
# before: their inserts name its only key. What the two let through meanwhile may be more than the
# provider does; its 429s are obeyed by both.
LIMITS = """
create table model_limits (
    backend text not null,
    upstream text not null,
    paused_until timestamptz,
    requests_limit float8,
    requests_left float8,
    tokens_limit float8,
    tokens_left float8,
    observed_at timestamptz not null default now(),
    primary key (backend, upstream)
)
"""


def upgrade() -> None:
    op.execute(LIMITS)
