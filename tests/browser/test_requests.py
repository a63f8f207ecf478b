"""A request's story is told: what became of it, where it waits and why, and, to few, its words."""

import pytest
from playwright.async_api import expect

from tests.browser.chromium import Visit
from tests.clients import CHAT, Requests
from tests.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

WORDS = "A word that only some may read: aubergine."


async def test_the_timeline_tells_each_attempt(house: Stack, visit: Visit) -> None:
    once = {"status": 503, "times": 1, "retry_after_seconds": 0.01}
    async with house.http() as http:
        requests = Requests(http)
        left = await requests.leave(carpool_simulate=once)
        await requests.until(left["id"], "completed")
    page = visit.page
    await visit.open("requests")
    await page.fill("#request-id", left["id"])
    await page.press("#request-id", "Enter")
    await expect(page.locator("#request-shown-id")).to_have_text(left["id"])
    steps = page.locator("#timeline .step")
    await expect(steps.last).to_have_attribute("data-event", "completed")
    told = [await step.get_attribute("data-event") for step in await steps.all()]
    attempts = [event for event in told if event in ("claimed", "failed_attempt", "completed")]
    assert (told[0], attempts) == (
        "received",
        ["claimed", "failed_attempt", "claimed", "completed"],
    )
    failed = page.locator('.step[data-event="failed_attempt"]')
    await expect(failed).to_contain_text("simulated: failed with status 503, as asked")
    await expect(failed).to_contain_text("first")


async def test_a_waiting_request_says_its_place_and_why_and_is_cancelled(
    house: Stack, visit: Visit
) -> None:
    await house.route("parked-why", "nowhere")
    async with house.http() as http:
        requests = Requests(http)
        left = await requests.leave(model="parked-why")
        page = visit.page
        await visit.open("requests", left["id"])
        wait = page.locator("#request-wait")
        await expect(wait.locator(".wait-text")).to_contain_text("nowhere")
        await expect(wait.locator(".figure-value").first).to_have_text("1")
        await page.click("#cancel-request")
        await visit.confirm("Cancel the request")
        await expect(page.locator("#timeline .step").last).to_have_attribute(
            "data-event", "cancelled"
        )
        await expect(wait).to_be_hidden()
        assert (await requests.get(left["id"]))["status"] == "cancelled"


async def test_bodies_are_hidden_from_who_may_not_see_them(
    house: Stack, visit: Visit, reader: Visit
) -> None:
    async with house.http() as http:
        requests = Requests(http)
        left = await requests.leave(messages=[{"role": "user", "content": WORDS}])
        await requests.until(left["id"], "completed")
    await visit.open("requests", left["id"])
    await expect(visit.page.locator("#bodies-hidden")).to_be_visible()
    assert "aubergine" not in await visit.page.content()
    await reader.open("requests", left["id"])
    asked = reader.page.get_by_label("Asked", exact=True)
    await expect(asked).to_contain_text(WORDS)
    await expect(reader.page.get_by_label("Answered", exact=True)).to_contain_text("choices")
    await expect(reader.page.locator("#bodies-hidden")).to_have_count(0)


async def test_requests_are_found_by_team_and_state(house: Stack, visit: Visit) -> None:
    key = await house.new_key("finders")
    async with house.http(key.secret) as http:
        assert (await http.post("/chat/completions", json=CHAT)).status_code == 200
        refused = CHAT | {"carpool_simulate": {"status": 418}}
        assert (await http.post("/chat/completions", json=refused)).status_code == 418
    page = visit.page
    await visit.open("requests")
    await page.fill("#requests-filter-team", "finders")
    await page.press("#requests-filter-team", "Enter")
    rows = page.locator("#requests-table tbody tr")
    await expect(rows).to_have_count(2)
    await page.select_option("#requests-filter-status", "failed")
    await expect(rows).to_have_count(1)
    await expect(rows.first.locator(".badge")).to_have_text("failed")
    await expect(page).to_have_url(
        f"{house.root_url}/dashboard#/requests?team=finders&status=failed"
    )


async def test_an_unknown_request_is_said_to_be_unknown(visit: Visit) -> None:
    visit.expected.append(r"status of 404 .*/admin/v1/requests/")
    await visit.open("requests", f"req_{'0' * 32}")
    await expect(visit.page.get_by_role("alert").first).to_be_visible()
    await expect(visit.page.get_by_text(f"req_{'0' * 32}", exact=True)).to_be_visible()
