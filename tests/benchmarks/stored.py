"""What Postgres holds of the requests that were answered."""

import asyncpg

_STORED = "select count(*) from results where outcome = 0"


async def completed_results(database_url: str) -> int:
    """How many results of completed requests are stored."""
    connection = await asyncpg.connect(database_url)
    try:
        return int(await connection.fetchval(_STORED))
    finally:
        await connection.close()
