"""How fast a model's work is done, and so how long more of it will take."""

import math
from datetime import UTC, datetime, timedelta

from carpool.ids import id_at
from db.database import Fetches

# Of the last results of a model: how many, and over how many seconds.
PACE = """
select count(*) as results, extract(epoch from max(completed_at) - min(completed_at)) as seconds
from (
    select s.completed_at from results s
    where s.id > $2 and s.model = $1
    order by s.id desc limit 5000
) recent
"""
BACKLOG = """
select coalesce(sum(b.total - coalesce(c.completed + c.failed + c.cancelled + c.expired, 0)), 0)
    as lines
from batches b left join batch_counts c on c.batch_id = b.id
where b.status = 1 and b.model = $1
"""
RECENT = timedelta(hours=1)
LEAST_RESULTS = 20


async def seconds_for(database: Fetches, model: str, lines: int) -> int | None:
    """How long so many more lines will take behind the open batches, in seconds.

    At the pace of the model's last results; None where it had too few within the hour.
    """
    [pace] = await database.fetch(PACE, model, id_at(datetime.now(UTC) - RECENT))
    if pace["results"] < LEAST_RESULTS:
        return None
    [backlog] = await database.fetch(BACKLOG, model)
    each = float(pace["seconds"]) / pace["results"]
    seconds: float = (int(backlog["lines"]) + lines) * each
    return math.ceil(seconds)
