"""Routes with conditions, provider batches, rate limits, prices, and what requests cost."""

from alembic import op

revision = "0003"
down_revision = "0002"

# A route is a model's legs in their order: see carpool.routing. `from_file` is what the settings
# last said, so that a start does not undo what was changed while running. `routing` has one row,
# whose version grows with each change: a claim names the version that it was planned by.
ROUTES = """
alter table routes rename to legs;
alter table legs drop constraint routes_pkey;
update legs l set position = n.place
from (
    select
        model, backend,
        row_number() over (partition by model order by position, backend) - 1 as place
    from legs
) n
where l.model = n.model and l.backend = n.backend;
alter table legs
    add primary key (model, position),
    alter column upstream drop not null,
    add column classes smallint[],
    add column teams text[],
    add column share_percent float8,
    add column after_seconds float8,
    add column left_seconds float8,
    add column max_price float8,
    drop column created_at;
create table routes (
    model text primary key,
    alias text,
    cache_seconds float8,
    from_file text,
    changed_at timestamptz not null default now()
);
insert into routes (model) select distinct model from legs;
create table route_changes (
    id bigint generated always as identity primary key,
    at timestamptz not null default now(),
    actor text not null,
    model text not null,
    before text,
    after text
);
create index route_changes_model on route_changes (model, id);
create table routing (one boolean primary key default true check (one), version bigint not null);
insert into routing (version) values (1);
create view served as
    with recursive chain (model, target) as (
        select model, model from routes
        union
        select c.model, r.alias from chain c join routes r on r.model = c.target
        where r.alias is not null
    )
    select distinct c.model, l.backend from chain c join legs l on l.model = c.target;
alter table runs
    add column accepting boolean not null default true,
    add column patience_seconds float8;
"""

# A row has its share of the traffic only where its model's route cuts some when it comes; each row
# that waits stands in one of by_share and (by_prefix, by_age). `twin` is the hash that identical
# requests have in common; the first leads, the others wait for its answer. A ghost is a leader
# that was cancelled, and is computed on for its followers.
QUEUE = """
alter table queue
    alter column share drop not null,
    add column twin uuid,
    add column leader uuid,
    add column followed boolean not null default false,
    add column ghost boolean not null default false;
drop index queue_by_age;
drop index queue_by_prefix;
create index queue_by_age on queue (model, class, team_id, id) where state = 0 and share is null;
create index queue_by_age_of_shares on queue (model, class, team_id, id)
    where state = 0 and share is not null;
create index queue_by_prefix on queue (model, team_id, rank, prefix_key, id)
    where state = 0 and class = 2 and share is null;
create index queue_by_share on queue (model, class, team_id, share, id)
    where state = 0 and share is not null;
create unique index queue_leaders on queue (twin) where twin is not null and leader is null;
create index queue_followers on queue (leader) where leader is not null;
create index queue_ghosts on queue (id) where ghost;
alter table requests add column shareable boolean not null default false;
create index requests_shareable on requests (fingerprint, id) where shareable;
"""

# Money in nanodollars: a token at $1 a million costs 1,000. What a request would have cost live at
# list price is what was paid and all that was saved, together.
LEDGER = """
alter table results
    add column written_tokens integer not null default 0,
    add column paid bigint not null default 0,
    add column saved_shared bigint not null default 0,
    add column saved_cache bigint not null default 0,
    add column saved_prefix bigint not null default 0,
    add column saved_window bigint not null default 0,
    add column saved_own bigint not null default 0;
alter table deltas
    add column paid bigint not null default 0,
    add column saved_shared bigint not null default 0,
    add column saved_cache bigint not null default 0,
    add column saved_prefix bigint not null default 0,
    add column saved_window bigint not null default 0,
    add column saved_own bigint not null default 0;
alter table totals
    add column paid bigint not null default 0,
    add column saved_shared bigint not null default 0,
    add column saved_cache bigint not null default 0,
    add column saved_prefix bigint not null default 0,
    add column saved_window bigint not null default 0,
    add column saved_own bigint not null default 0;
create table prices (
    model text not null,
    backend text not null default '',
    since timestamptz not null,
    input numeric not null,
    cached numeric not null,
    written numeric not null,
    output numeric not null,
    long_tokens integer,
    long_input numeric not null default 1,
    long_output numeric not null default 1,
    primary key (model, backend, since)
);
"""

# `state`: see carpool.states.ProviderBatchState. `keeper` is the process that moves it on.
PROVIDERS = """
create table provider_batches (
    id uuid primary key,
    backend text not null,
    model text not null,
    upstream text not null,
    endpoint smallint not null,
    completion_window text not null,
    reason text not null,
    state smallint not null default 0,
    deadline timestamptz,
    lines integer not null,
    bytes bigint not null,
    tokens bigint not null,
    keeper uuid,
    kept_until timestamptz,
    input_file text,
    provider_id text,
    provider_status text,
    output_file text,
    error_file text,
    error text,
    created_at timestamptz not null default now(),
    submitted_at timestamptz,
    ended_at timestamptz
);
create index provider_batches_open on provider_batches (backend, id) where state < 3;
create index provider_batches_ended on provider_batches (backend, completion_window, ended_at)
    where state = 3;
create table rate_limits (
    backend text primary key,
    paused_until timestamptz,
    requests_limit float8,
    requests_left float8,
    tokens_limit float8,
    tokens_left float8,
    observed_at timestamptz not null default now()
);
"""


def upgrade() -> None:
    for ddl in (ROUTES, QUEUE, LEDGER, PROVIDERS):
        for statement in ddl.split(";\n"):
            if statement.strip():
                op.execute(statement)
