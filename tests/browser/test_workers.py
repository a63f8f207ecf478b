"""A worker is drained and resumed by a click, and what waits meanwhile says why; engines tell."""

import pytest
from playwright.async_api import expect

from carpool.engine import EngineFigures, encode_figures
from carpool.ids import new_id
from tests.browser.chromium import Visit
from tests.browser.conftest import SECOND
from tests.clients import Requests
from tests.stack import Json, Stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

SLOW: Json = {"carpool_simulate": {"milliseconds_per_token": 100}, "max_tokens": 60}
"""Six seconds: it is drained while it runs, and has ended before a drain hands it back."""
HITS = """
insert into runs (id, backend, slot, process_id, worker, capacity, heartbeat_at, figures)
select $1, backend, 99, id, 'test', 8, now() + interval '1 hour', $2
from processes where backend = $3 and ended_at is null
"""


async def test_a_worker_is_drained_and_resumed(house: Stack, visit: Visit) -> None:
    await house.route("on-second", SECOND)
    page = visit.page
    await visit.open("workers")
    card = page.locator(".worker", has_text=SECOND)
    async with house.http() as http:
        requests = Requests(http)
        held = await requests.leave(model="on-second", **SLOW)
        await requests.until(held["id"], "in_progress")
        await card.locator("[data-act=drain]").click()
        await visit.confirm("Drain it")
        await expect(card).to_have_attribute("data-state", "paused")
        assert (await requests.get(held["id"]))["status"] == "completed"
        await expect(card.locator("[data-act=resume]")).to_be_focused()
        waiting = await requests.leave(model="on-second")
        await visit.open("requests", waiting["id"])
        await expect(page.locator("#request-wait .wait-text")).to_contain_text(SECOND)
        await visit.open("workers")
        await card.locator("[data-act=resume]").click()
        await visit.confirm("Resume it")
        await expect(card).to_have_attribute("data-state", "live")
        await requests.until(waiting["id"], "completed")


async def test_an_engine_says_what_its_prefix_cache_found_of_late(
    house: Stack, visit: Visit
) -> None:
    run = new_id()
    figures = EngineFigures(running=1, prefix_cache_queries=1000, prefix_cache_hits=250)
    await house.fetch(HITS, run, encode_figures(figures).decode(), SECOND)
    try:
        await visit.open("workers")
        card = visit.page.locator(".worker", has_text=SECOND)
        told = card.locator(".run-figures", has_text="prefix hits")
        await expect(told).to_contain_text("engine runs 1 · prefix hits 25")
    finally:
        await house.fetch("delete from runs where id = $1", run)
