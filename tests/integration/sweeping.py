"""A round of the sweep, as of the moment in which it is asked for."""

from db.database import Fetches
from db.sweep import Swept, sweep


async def sweep_now(
    database: Fetches, *, lease_seconds: float = 150.0, grace_seconds: float = 1.0
) -> Swept:
    """What one round did."""
    [row] = await database.fetch("select now()")
    return await sweep(
        database, now=row["now"], lease_seconds=lease_seconds, grace_seconds=grace_seconds
    )
