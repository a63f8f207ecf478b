"""Provider batches that go as background responses, and the ids by which those are asked for."""

from alembic import op

revision = "0005"
down_revision = "0004"

# `verbatim`: a row's body has no equal as a response, and goes as it is. Set when a provider batch
# hands the row back, never when it comes: the constant default costs the way of a request nothing.
QUEUE = """
alter table queue add column verbatim boolean not null default false
"""

# A row for each response that is at the provider and not settled: inserted once its id is known,
# deleted once its answer is stored and the provider has let go of it; never updated. The key lets a
# provider batch have one response for each request, however many keepers create some.
RESPONSES = """
alter table provider_batches add column background boolean not null default false;
create table provider_responses (
    provider_batch uuid not null,
    request_id uuid not null,
    response_id text not null,
    kept boolean not null,
    created_at timestamptz not null default now(),
    primary key (provider_batch, request_id)
)
"""


def upgrade() -> None:
    for ddl in (QUEUE, RESPONSES):
        for statement in ddl.split(";\n"):
            if statement.strip():
                op.execute(statement)
