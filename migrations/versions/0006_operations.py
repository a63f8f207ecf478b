"""What operators see and do: histories, engines' figures, drained workers, sessions, traces."""

from alembic import op

revision = "0006"
down_revision = "0005"

# Both histories have steps of 10 seconds for the last hours, folded to steps of 5 minutes after. A
# team of 0 is all those together that a sample had no room for.
HISTORY = """
create table queue_depths (
    span_seconds integer not null,
    at timestamptz not null,
    model text not null,
    class smallint not null,
    team_id integer not null,
    waiting integer not null,
    in_flight integer not null,
    oldest_seconds float8 not null,
    primary key (span_seconds, at, model, class, team_id)
);
create table activity (
    span_seconds integer not null,
    at timestamptz not null,
    team_id integer not null,
    model text not null,
    backend text not null,
    completed bigint not null,
    failed bigint not null,
    cancelled bigint not null,
    expired bigint not null,
    prompt_tokens bigint not null,
    cached_tokens bigint not null,
    completion_tokens bigint not null,
    primary key (span_seconds, at, team_id, model, backend)
);
"""

# `figures` is JSON: what an engine says of itself (see carpool.engine). A worker that is paused
# keeps its engine, and claims nothing. One that died is shown for a while: `settled_at` is when the
# sweep let go of the clients that waited at it, `left_at` when it said that it ends.
WORKERS = """
alter table runs add column figures text;
alter table processes
    add column backend text,
    add column paused_at timestamptz,
    add column left_at timestamptz,
    add column settled_at timestamptz;
"""

# Of a session's cookie only a hash is stored, as of a key.
SESSIONS = """
alter table keys add column sees_bodies boolean not null default false;
create table sessions (
    hash bytea primary key,
    key_id uuid not null references keys (id),
    csrf text not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null
);
create index sessions_expired on sessions (expires_at);
"""

TRACES = """
alter table requests add column traceparent text;
"""


def upgrade() -> None:
    for ddl in (HISTORY, WORKERS, SESSIONS, TRACES):
        for statement in ddl.split(";\n"):
            if statement.strip():
                op.execute(statement)
