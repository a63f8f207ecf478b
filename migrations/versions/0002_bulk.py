"""Files, uploads and batches; what a request, a queue row and a result carry of their batch."""

from alembic import op

revision = "0002"
down_revision = "0001"

# A file's bytes lie in the file store under its id. `state`: see carpool.states.FileState.
FILES = """
create table files (
    id uuid primary key,
    team_id integer not null,
    key_id uuid not null,
    purpose text not null,
    filename text not null,
    bytes bigint not null default 0,
    state smallint not null default 0,
    writer uuid,
    created_at timestamptz not null default now(),
    expires_at timestamptz
);
create index files_team on files (team_id, id) where state = 1;
create index files_expiring on files (expires_at) where state = 1 and expires_at is not null;
create index files_leftover on files (id) where state <> 1;
create table uploads (
    id uuid primary key,
    team_id integer not null,
    key_id uuid not null,
    purpose text not null,
    filename text not null,
    mime_type text not null,
    bytes bigint not null,
    state smallint not null default 0,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    file_expires_seconds integer,
    file_id uuid
);
create index uploads_open on uploads (expires_at) where state = 0;
create table upload_parts (
    id uuid primary key,
    upload_id uuid not null references uploads (id) on delete cascade,
    bytes bigint not null default 0,
    state smallint not null default 0,
    writer uuid,
    created_at timestamptz not null default now()
);
create index upload_parts_upload on upload_parts (upload_id);
"""

# The low 32 bits of a batch's id are zero; its line n is the request with the id that is n more, so
# that the requests and results of a batch are one range of ids, in the order of its lines.
BATCHES = """
create table batches (
    id uuid primary key,
    team_id integer not null,
    key_id uuid not null,
    person text,
    endpoint smallint not null,
    completion_window text not null,
    input_file_id text not null,
    input_file uuid,
    metadata text,
    output_expires_seconds integer,
    priority smallint not null default 0,
    dry_run boolean not null default false,
    fingerprint uuid not null,
    status smallint not null default 0,
    expiring boolean not null default false,
    owner uuid,
    model text,
    errors text,
    report text,
    total integer not null default 0,
    tokens bigint not null default 0,
    ingested integer not null default 0,
    ingested_line bigint not null default 0,
    ingested_bytes bigint not null default 0,
    output_file_id uuid,
    error_file_id uuid,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    in_progress_at timestamptz,
    finalizing_at timestamptz,
    completed_at timestamptz,
    failed_at timestamptz,
    expired_at timestamptz,
    cancelling_at timestamptz,
    cancelled_at timestamptz
);
create index batches_team on batches (team_id, id) where not dry_run;
create index batches_fingerprint on batches (team_id, fingerprint, id);
create index batches_open on batches (id) where status < 4;
create index batches_input on batches (input_file) where status < 4;
create table batch_counts (
    batch_id uuid primary key,
    completed integer not null default 0,
    failed integer not null default 0,
    cancelled integer not null default 0,
    expired integer not null default 0,
    prompt_tokens bigint not null default 0,
    cached_tokens bigint not null default 0,
    completion_tokens bigint not null default 0
) with (fillfactor = 50);
"""

LINES = """
alter table requests add column custom_id text;
alter table results add column batch_id uuid;
create index results_batch on results (batch_id, completed_at, id) where batch_id is not null;
alter table queue add column rank smallint not null default 0;
drop index queue_by_prefix;
create index queue_by_prefix on queue (model, team_id, rank, prefix_key, id)
    where state = 0 and class = 2;
"""


def upgrade() -> None:
    for ddl in (FILES, BATCHES, LINES):
        for statement in ddl.split(";\n"):
            if statement.strip():
                op.execute(statement)
