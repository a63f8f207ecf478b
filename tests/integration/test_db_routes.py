"""Routes as they are stored: what cannot be is never there, and who reads them sees them whole."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from carpool.ids import new_id
from carpool.routing import Cell, Kind, Leg, Route
from carpool.settings import ModelSettings
from db.cache import FIND, find_answer
from db.claim import StaleRoutesError, claim
from db.database import DatabaseAway, Lane
from db.keys import create_key
from db.routes import ensure_routes, list_routes, routing_version, set_route
from workers.map import Map

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench

pytest_plugins = ("tests.integration.db_fixtures",)

LEGS = Route(legs=(Leg(backend="engine"),))
FILE = {
    "house": ModelSettings(backends=("engine",)),
    "short": ModelSettings(alias="house"),
}
FILL = """
with stored as (
    insert into requests (
        id, team_id, key_id, class, endpoint, model, streamed, body, fingerprint, shareable
    )
    select id, 1, id, 0, 0, 'tiny', false, '{}', $2, n = 1 or $3
    from unnest($1::uuid[]) with ordinality u(id, n)
)
insert into results (
    id, team_id, key_id, model, outcome, status_code, body, streamed, epoch, attempts
)
select id, 1, id, 'tiny', case when $3 then 1 else 0 end, 200, 'x', false, 0, 1
from unnest($1::uuid[]) u(id)
"""


async def test_a_file_makes_no_cycle_with_what_was_changed_while_running(bench: "Bench") -> None:
    """Whoever followed it would follow it for ever."""
    await ensure_routes(bench.database, FILE)
    await set_route(bench.database, "short", LEGS, actor="test", backends={"engine"})
    await set_route(bench.database, "house", Route(alias="short"), actor="test")
    before = await list_routes(bench.database)
    changed = FILE | {"short": ModelSettings(alias="house", cache_seconds=5)}
    await ensure_routes(bench.database, changed)
    assert await list_routes(bench.database) == before


async def test_a_file_s_aliases_come_in_any_order(bench: "Bench") -> None:
    await ensure_routes(bench.database, dict(reversed(FILE.items())))
    routes = await list_routes(bench.database)
    assert (routes["house"], routes["short"]) == (LEGS, Route(alias="house"))


async def test_a_team_that_comes_after_its_route_is_known_at_the_next_claim(
    bench: "Bench",
) -> None:
    """Or its requests would go where those of all others go."""
    from tests.integration.db_fixtures import pick

    route = Route(legs=(Leg(backend="own", teams=("legal",)), Leg(backend="engine")))
    await set_route(bench.database, "tiny", route, actor="test", backends={"own"})
    run = await bench.run()
    await bench.run("own")
    seen = Map("engine")
    assert await seen.read(run.lane)
    await create_key(bench.database, team="others", name="k")
    assert await routing_version(run.lane) == seen.version
    await create_key(bench.database, team="legal", name="k")
    [legal] = await bench.sql("select id from teams where name = 'legal'")
    await bench.fill(1, team_id=legal["id"])
    with pytest.raises(StaleRoutesError):
        await claim(run.lane, run.id, seen.version, [pick(1, team_id=legal["id"])])
    assert await seen.read(run.lane)
    assert seen.teams == {legal["id"]: "legal"}
    assert not [cell for cell in seen.cells if cell.takes("legal")]


class Cut(Lane):
    """A lane that breaks at one statement."""

    def __init__(self, lane: Lane, words: str) -> None:
        self._lane = lane
        self._words = words

    async def fetch(self, sql: str, *arguments: Any) -> Sequence[Any]:
        if self._words in sql:
            raise DatabaseAway("cut")
        return await self._lane.fetch(sql, *arguments)


def kinds(cells: list[Cell]) -> set[Kind]:
    return {cell.kind for cell in cells if cell.model == "tiny"}


@pytest.mark.parametrize("words", ["from legs", "from prices", "from teams"])
async def test_a_map_that_is_cut_off_is_made_anew(bench: "Bench", words: str) -> None:
    """It is of one version whole: claims by its cells name the version that they are of."""
    run = await bench.run()
    seen = Map("engine")
    await seen.read(run.lane)
    old = seen.version
    legs = (Leg(backend="engine", after_seconds=5, teams=("legal",)),)
    await set_route(bench.database, "tiny", Route(legs=legs), actor="test")
    with pytest.raises(DatabaseAway):
        await seen.read(Cut(run.lane, words))
    assert (seen.version, kinds(seen.cells)) == (old, {Kind.WHOLE, Kind.SHARE})
    assert await seen.read(run.lane)
    assert (seen.version, kinds(seen.cells)) == (old + 1, {Kind.AFTER})


@pytest.mark.parametrize("failed", [False, True])
async def test_a_kept_answer_is_found_among_many_alike(bench: "Bench", failed: bool) -> None:
    """Neither hits, which are not kept themselves, nor failures are read one by one."""
    ids = [new_id() for _ in range(20_000)]
    prompt = UUID(int=77)
    await bench.sql(FILL, ids, prompt, failed)
    found = await find_answer(bench.database, team_id=1, fingerprint=prompt, max_age_seconds=3600)
    assert (found and found[0]) == (None if failed else ids[0])
    await bench.sql("analyze requests")
    await bench.sql("analyze results")
    explain = f"explain (analyze, buffers, format json) {FIND}"
    plan = await bench.value(explain, prompt, 1, UUID(int=0), 3600.0)
    root = json.loads(plan)[0]["Plan"]
    blocks = root["Shared Hit Blocks"] + root["Shared Read Blocks"]
    assert blocks < (400 if failed else 40)
