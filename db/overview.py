"""What waits, what runs, and who serves, at a glance."""

from dataclasses import dataclass

from sqlalchemy import text

from carpool.ids import BATCH_PREFIX, public_id
from carpool.routing import Route
from carpool.states import BatchStatus, ServiceClass
from db.database import Database
from db.routes import list_routes

WAITING = """
select model, class, count(*) as count,
    extract(epoch from now() - to_timestamp(
        ('x' || substr(replace(min(id::text), '-', ''), 1, 12))::bit(48)::bigint / 1000.0
    )) as oldest
from queue where state <> 1 group by model, class order by model, class
"""
IN_FLIGHT = """
select r.backend, count(*) as count from queue q join runs r on r.id = q.owner
where q.state = 1 group by r.backend order by r.backend
"""
RUNS = """
select backend, worker, in_flight, capacity, extract(epoch from now() - heartbeat_at) as age
from runs where ended_at is null order by backend, slot
"""
BATCHES = """
select b.id, t.name, b.model, b.status, b.total,
    coalesce(c.completed + c.failed + c.cancelled + c.expired, 0) as done
from batches b join teams t on t.id = b.team_id left join batch_counts c on c.batch_id = b.id
where b.status < 4 and not b.dry_run order by b.id
"""
PROCESSES = """
select kind, host, pid, extract(epoch from now() - heartbeat_at) as age
from processes order by kind, host, pid
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """Rows for a person's eye; ages in seconds."""

    waiting: list[tuple[str, str, int, float]]
    """Model, class, how many, age of the oldest."""
    in_flight: list[tuple[str, int]]
    """Backend, how many."""
    runs: list[tuple[str, str, int, int, float]]
    """Backend, worker, in flight, capacity, age of the heartbeat."""
    batches: list[tuple[str, str, str | None, str, int, int]]
    """Those that are open: id, team, model, status, lines done, lines in all."""
    processes: list[tuple[str, str, int, float]]
    """Kind, host, process id, age of the heartbeat."""
    routes: dict[str, Route]


async def overview(database: Database) -> Overview:
    """Read it all."""
    async with database.connect() as connection:
        waiting = (await connection.execute(text(WAITING))).all()
        in_flight = (await connection.execute(text(IN_FLIGHT))).all()
        runs = (await connection.execute(text(RUNS))).all()
        batches = (await connection.execute(text(BATCHES))).all()
        processes = (await connection.execute(text(PROCESSES))).all()
    return Overview(
        waiting=[
            (row[0], ServiceClass(row[1]).name.lower(), row[2], float(row.oldest))
            for row in waiting
        ],
        in_flight=[(row[0], row[1]) for row in in_flight],
        runs=[(row[0], row[1], row[2], row[3], float(row.age)) for row in runs],
        batches=[
            (
                public_id(BATCH_PREFIX, row.id),
                row.name,
                row.model,
                BatchStatus(row.status).name.lower(),
                row.done,
                row.total,
            )
            for row in batches
        ],
        processes=[(row[0], row[1], row[2], float(row.age)) for row in processes],
        routes=await list_routes(database),
    )
