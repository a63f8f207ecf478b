"""Teams, keys, routes; processes and runs; the write-once tables, the queue, and the deltas."""

from alembic import op

revision = "0001"
down_revision = None

TENANCY = """
create table teams (
    id integer generated always as identity primary key,
    name text not null unique,
    created_at timestamptz not null default now()
);
create table keys (
    id uuid primary key,
    team_id integer not null references teams (id),
    hash bytea not null unique,
    hint text not null,
    name text not null,
    owner text,
    admin boolean not null default false,
    created_at timestamptz not null default now(),
    revoked_at timestamptz
);
create table routes (
    model text not null,
    backend text not null,
    upstream text not null,
    position integer not null default 0,
    created_at timestamptz not null default now(),
    primary key (model, backend)
);
create index routes_backend on routes (backend, model);
"""

LIVENESS = """
create table processes (
    id uuid primary key,
    kind text not null,
    seat text,
    host text not null,
    pid integer not null,
    started_at timestamptz not null default now(),
    heartbeat_at timestamptz not null default now(),
    ended_at timestamptz
);
create unique index processes_seat on processes (seat) where ended_at is null;
create table runs (
    id uuid primary key,
    backend text not null,
    slot integer not null,
    process_id uuid not null,
    worker text not null,
    started_at timestamptz not null default now(),
    heartbeat_at timestamptz not null default now(),
    in_flight integer not null default 0,
    capacity integer not null,
    ended_at timestamptz
);
create table leases (
    name text primary key,
    holder uuid not null,
    until timestamptz not null
);
create unique index runs_live on runs (backend, slot) where ended_at is null;
"""

# Written once, never updated; ranges of the id are ranges of time (UUIDv7).
WRITE_ONCE = """
create table requests (
    id uuid primary key,
    team_id integer not null,
    key_id uuid not null,
    person text,
    class smallint not null,
    endpoint smallint not null,
    model text not null,
    streamed boolean not null,
    body bytea not null,
    fingerprint uuid not null,
    incarnation uuid,
    batch_id uuid
) partition by range (id);
create index requests_fingerprint on requests (fingerprint, id);
create index requests_team on requests (team_id, id);
create table results (
    id uuid primary key,
    team_id integer not null,
    key_id uuid not null,
    model text not null,
    outcome smallint not null,
    status_code smallint not null,
    body bytea not null,
    streamed boolean not null,
    epoch integer not null,
    attempts smallint not null,
    backend text,
    upstream text,
    worker text,
    run_id uuid,
    started_at timestamptz,
    first_token_at timestamptz,
    completed_at timestamptz not null default now(),
    prompt_tokens integer not null default 0,
    cached_tokens integer not null default 0,
    completion_tokens integer not null default 0
) partition by range (id);
create index results_team on results (team_id, outcome, id);
create table attempts (
    id uuid not null,
    team_id integer not null,
    key_id uuid not null,
    epoch integer not null,
    outcome text not null,
    error text not null,
    backend text,
    worker text,
    run_id uuid,
    started_at timestamptz,
    ended_at timestamptz not null default now(),
    primary key (id, epoch)
) partition by range (id);
create table deliveries (
    id uuid primary key,
    at timestamptz not null default now()
) partition by range (id);
create table disconnects (
    connection uuid primary key,
    at timestamptz not null default now()
) partition by range (connection);
create table reattachments (
    connection uuid primary key,
    request_id uuid not null,
    successor uuid not null,
    incarnation uuid not null,
    at timestamptz not null default now()
) partition by range (connection);
create index reattachments_request on reattachments (request_id);
create table idempotency_keys (
    team_id integer not null,
    key uuid not null,
    fingerprint uuid not null,
    request_id uuid not null,
    created_at timestamptz not null default now(),
    primary key (team_id, key)
);
"""

# The only table whose rows change: narrow, and one row for each request that is not finished.
# Each index holds just the rows that its one reader looks for.
QUEUE = """
create table queue (
    id uuid primary key,
    key_id uuid not null,
    owner uuid,
    channel uuid,
    batch_id uuid,
    prefix_key bigint not null,
    deadline timestamptz,
    not_before timestamptz,
    abandon_at timestamptz,
    claimed_at timestamptz,
    team_id integer not null,
    epoch integer not null default 0,
    class smallint not null,
    endpoint smallint not null,
    share smallint not null,
    state smallint not null default 0,
    owner_kind smallint not null default 0,
    attempts smallint not null default 0,
    lost smallint not null default 0,
    streamed boolean not null,
    awaited boolean not null default false,
    model text not null,
    person text
) with (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_insert_scale_factor = 0.1,
    autovacuum_analyze_scale_factor = 0.1,
    autovacuum_vacuum_cost_delay = 0
);
create index queue_by_age on queue (model, class, team_id, id) where state = 0 and class < 2;
create index queue_by_prefix on queue (model, team_id, prefix_key, id)
    where state = 0 and class = 2;
create index queue_suspects on queue (model, lost, id) where state = 3;
create index queue_owned on queue (owner) where owner is not null;
create index queue_backing_off on queue (not_before) where state = 2;
create index queue_deadline on queue (deadline) where deadline is not null;
create index queue_abandoned on queue (abandon_at) where abandon_at is not null;
"""

COUNTERS = """
create table deltas (
    seq bigint generated always as identity primary key,
    team_id integer not null,
    model text not null,
    backend text,
    batch_id uuid,
    completed integer not null,
    failed integer not null,
    cancelled integer not null,
    expired integer not null,
    prompt_tokens bigint not null,
    cached_tokens bigint not null,
    completion_tokens bigint not null
);
create table totals (
    day date not null,
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
    primary key (day, team_id, model, backend)
);
"""

DEFAULT_PARTITIONS = "".join(
    f"create table {table}_default partition of {table} default;\n"
    for table in (
        "requests",
        "results",
        "attempts",
        "deliveries",
        "disconnects",
        "reattachments",
    )
)


def upgrade() -> None:
    for ddl in (TENANCY, LIVENESS, WRITE_ONCE, QUEUE, COUNTERS, DEFAULT_PARTITIONS):
        for statement in ddl.split(";\n"):
            if statement.strip():
                op.execute(statement)
