"""Millions of rows of `queue` that wait, made and removed in Postgres itself.

Every second row is interactive, and these go round over the models and the teams. The others are
batch: they came in files of 5,000 lines of one model and team, in which 16 lines on end share a
prefix.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from carpool.ids import id_at

MODELS = ("small", "large", "embed")
TEAMS = 50
ROWS_PER_MILLISECOND = 2
FILE_LINES = 5_000
PREFIX_LINES = 16
HEAD_SHARE = 0.4

# An id grows with the row's number: milliseconds, then the place within one. All get a small body,
# for which of them will be claimed is the scheduler's affair.
_FILL_QUEUE = """
insert into queue (id, key_id, model, team_id, class, prefix_key, endpoint, share, streamed)
select
    (
        lpad(to_hex($2::bigint + i / $3), 12, '0') || '7' || lpad(to_hex(i % $3), 3, '0')
        || '8' || substr(md5(i::text), 1, 15)
    )::uuid,
    '00000000-0000-0000-0000-000000000001',
    ($4::text[])[1 + of % cardinality($4)], 1 + of / cardinality($4) % $5, class,
    hashint8extended(line / $7, 0), 0, null, false
from
    generate_series(0, $1::bigint - 1) i
    cross join lateral (values (i / 2, i % 2 * 2)) as parts(line, class)
    cross join lateral (values (case class when 0 then line else line / $6 end)) as place(of)
"""
_FILL_REQUESTS = """
insert into requests (
    id, team_id, key_id, class, endpoint, model, streamed, body, fingerprint
)
select id, team_id, id, class, endpoint, model, streamed, convert_to($1, 'UTF8'), id from queue
"""
_BODY = '{"model":"small","messages":[{"role":"user","content":"Hello"}]}'
_DELETE_OLDEST = "delete from queue where class < 2 and id < $1"
_DELETE_LOWEST = "delete from queue where class = 2 and prefix_key < $1"


async def fill(connection: Any, rows: int, begin: datetime) -> None:
    """Let ``rows`` rows wait, the oldest since ``begin``; in place of all that waited before."""
    await connection.execute("truncate queue, requests")
    first = int(begin.timestamp() * 1000)
    await connection.execute(
        _FILL_QUEUE,
        rows,
        first,
        ROWS_PER_MILLISECOND,
        list(MODELS),
        TEAMS,
        min(FILE_LINES, rows // (2 * TEAMS * len(MODELS))),
        PREFIX_LINES,
        timeout=None,
    )
    await connection.execute(_FILL_REQUESTS, _BODY, timeout=None)
    # What autovacuum does by itself in the time that such a queue takes to grow.
    await connection.execute("vacuum (analyze) queue")
    await connection.execute("vacuum (analyze) requests")
    await connection.execute("checkpoint")


async def delete_head(connection: Any, rows: int, begin: datetime) -> int:
    """Delete the oldest of the interactive rows and the batch rows of the lowest prefixes.

    ``rows`` and ``begin`` are what was filled with; returns how many rows went.
    """
    oldest = _id_of(int(rows * HEAD_SHARE), begin)
    lowest = -(2**63) + int(HEAD_SHARE * 2**64)
    gone = [
        await connection.execute(_DELETE_OLDEST, oldest, timeout=None),
        await connection.execute(_DELETE_LOWEST, lowest, timeout=None),
    ]
    return sum(int(status.rpartition(" ")[2]) for status in gone)


def _id_of(row: int, begin: datetime) -> UUID:
    """A bound on the id of a row."""
    return UUID(int=id_at(begin).int + ((row // ROWS_PER_MILLISECOND) << 80))
