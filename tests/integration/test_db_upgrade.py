"""A database of an older Carpool is brought to this one's schema with all that waits in it."""

import asyncio
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

import migrations
from carpool.ids import new_id
from carpool.routing import Leg, cells
from db.claim import Pick, claim, waiting
from db.database import Database
from db.migrate import migrate
from db.routes import read_routing
from db.runs import begin_run
from workers.scheduler import Scheduler

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench

pytest_plugins = ("tests.integration.db_fixtures",)

RELEASE = Path(__file__).parents[1] / "deploy" / "release-0003.tar.xz"
"""An older Carpool, whose processes go on for a while after an upgrade."""
ROUTES = """
insert into routes (model, backend, upstream, position) values
    ('house', 'own', 'house', 0), ('house', 'other', 'big', 0), ('brief', 'own', 'small', 3)
"""
WAITS = """
insert into queue (id, key_id, team_id, class, endpoint, share, prefix_key, streamed, model)
values ($1, $1, 1, $2, 0, $3, 7, false, 'house')
"""
STORED = """
insert into requests (id, key_id, team_id, class, endpoint, model, streamed, body, fingerprint)
values ($1, $1, 1, $2, 0, 'house', false, '{}', $1)
"""


def to_0002(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, "0002")
    connection.commit()


async def test_routes_and_what_waits_outlive_the_upgrade(empty_database: str) -> None:
    """Rows that have a share from before go where the route leads, though it cuts none."""
    database = Database(empty_database, pool_size=1)
    async with database.connect() as old:
        await old.run_sync(to_0002)
    writer = await asyncpg.connect(empty_database)
    await writer.execute(ROUTES)
    ids = [new_id() for _ in range(30)]
    for place, identifier in enumerate(ids):
        await writer.execute(STORED, identifier, place % 3)
        await writer.execute(WAITS, identifier, place % 3, [0, 9_999, 5_000][place // 3 % 3])
    await writer.execute("update queue set state = 3, lost = 2 where id = $1", ids[0])
    await writer.close()
    await asyncio.to_thread(migrate, empty_database, partition_days=1)

    routing = await read_routing(database)
    assert {model: route.legs for model, route in routing.routes.items()} == {
        "house": (Leg(backend="other", upstream="big"), Leg(backend="own", upstream="house")),
        "brief": (Leg(backend="own", upstream="small"),),
    }
    lane = database.lane()
    await lane.fetch("insert into processes (id, kind, host, pid) values ($1, 'w', 'h', 1)", ids[0])
    run = new_id()
    await begin_run(lane, run=run, backend="own", process=ids[0], worker="w", capacity=9)
    mine = cells("house", routing.routes["house"].legs, "own", live={"own"})
    scheduler = Scheduler(0)
    scheduler.route(mine, {})
    claimed = []
    scheduler.look(await waiting(lane, mine))
    while picks := _plan(scheduler):
        claims = await claim(lane, run, routing.version, picks)
        scheduler.settle(picks, claims, settled=new_id())
        claimed += [one.id for one in claims]
    assert sorted(claimed) == ids
    await lane.close()
    await database.close()


async def test_workers_of_an_older_release_go_on_to_count_their_calls(bench: "Bench") -> None:
    """They know one budget for each backend, which those of this release leave to them."""
    await bench.stop_clock()
    lane = bench.lane()
    with tarfile.open(RELEASE) as packed:
        texts = {
            name: packed.extractfile(f"db/{name}").read().decode()  # type: ignore[union-attr]
            for name in ("sql/observe.sql", "sql/reserve.sql", "rate_limits.py")
        }
    held: dict[str, str] = {}
    exec(texts["rate_limits.py"], held)
    await lane.fetch(texts["sql/observe.sql"], "cloud", 60.0, 5.0, None, None, 0.0, 0.0)
    [grant] = await lane.fetch(texts["sql/reserve.sql"], "cloud", 4.0, 0.0)
    assert grant["number"] == 4
    await lane.fetch(held["GIVE_BACK"], "cloud", 2.0, 0.0)
    [grant] = await lane.fetch(texts["sql/reserve.sql"], "cloud", 4.0, 0.0)
    assert grant["number"] == 3
    await lane.fetch(held["PAUSE"], "cloud", 60.0)
    [grant] = await lane.fetch(texts["sql/reserve.sql"], "cloud", 4.0, 0.0)
    assert grant["number"] == 0
    assert await bench.value("select count(*) from model_limits") == 0


def _plan(scheduler: Scheduler) -> list[Pick]:
    return scheduler.plan(free=4, in_flight=0, now=datetime.now(UTC))
