"""A worker is drained and resumed by a click, and what waits meanwhile says why."""

import pytest
from playwright.async_api import expect

from tests.browser.chromium import Visit
from tests.browser.conftest import SECOND
from tests.stack import Json, Requests, Stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

SLOW: Json = {"carpool_simulate": {"milliseconds_per_token": 20}, "max_tokens": 40}


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
