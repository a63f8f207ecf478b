"""A switch of a route is asked about, written down, and followed by the very next answer."""

import pytest
from playwright.async_api import Page, expect

from tests.browser.chromium import Visit
from tests.browser.conftest import FIRST, SECOND

pytestmark = pytest.mark.asyncio(loop_scope="session")

MODEL = "switched"


async def switch(visit: Visit, backend: str) -> None:
    """Let another backend answer, by the form, the question and a click."""
    page = visit.page
    await page.get_by_role("button", name=f"Switch {MODEL}", exact=True).click()
    await page.locator("#route-form [name=backend]").first.select_option(backend)
    await page.click("#route-review")
    await expect(page.locator("#route-to")).to_contain_text(backend)
    await page.click("#route-confirm")
    await expect(page.get_by_role("dialog")).to_have_count(0)


async def ask(page: Page, text: str, backend: str) -> None:
    """Say something in the playground, and see who answers."""
    await page.fill("#chat-input", text)
    await page.press("#chat-input", "Enter")
    answer = page.locator('.turn[data-role="assistant"]').last
    await expect(answer).to_have_attribute("data-backend", backend)
    await expect(answer.locator(".turn-text")).not_to_be_empty()
    await expect(page.locator("#chat-send")).to_be_enabled()


async def test_a_switch_is_seen_in_the_playground_and_in_the_history(visit: Visit) -> None:
    page = visit.page
    await visit.open("playground")
    await expect(page.locator("#chat-model")).not_to_have_value("")
    await page.fill("#chat-model", MODEL)
    await ask(page, "Who answers?", FIRST)
    for old, new in ((FIRST, SECOND), (SECOND, FIRST)):
        await visit.open("routes")
        route = page.locator(f'.route[data-model="{MODEL}"]')
        await expect(route.locator(".route-now")).to_have_text(f"Answered by {old}")
        await switch(visit, new)
        await expect(route.locator(".route-now")).to_have_text(f"Answered by {new}")
        newest = page.locator("#route-changes tbody tr").first
        await expect(newest).to_contain_text(MODEL)
        await expect(newest.locator('[data-label="From"]')).to_contain_text(old)
        await expect(newest.locator('[data-label="To"]')).to_contain_text(new)
        await visit.open("playground")
        await ask(page, f"Is it {new} now?", new)
    sources = page.locator('.turn[data-role="assistant"]')
    told = [await one.get_attribute("data-backend") for one in await sources.all()]
    assert told == [FIRST, SECOND, FIRST]


async def test_a_switch_that_is_not_confirmed_changes_nothing(visit: Visit) -> None:
    page = visit.page
    await visit.open("routes")
    now = page.locator(f'.route[data-model="{MODEL}"] .route-now')
    await page.get_by_role("button", name=f"Switch {MODEL}", exact=True).click()
    await page.locator("#route-form [name=backend]").first.select_option(SECOND)
    await page.click("#route-review")
    await page.get_by_role("button", name="Back", exact=True).click()
    await expect(page.locator("#route-review")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await page.reload()
    await expect(now).to_have_text(f"Answered by {FIRST}")


async def test_what_makes_no_sense_is_refused_in_the_form(visit: Visit) -> None:
    visit.expected.append(r"status of 400 .*/admin/v1/routes/")
    page = visit.page
    await visit.open("routes")
    await page.get_by_role("button", name=f"Switch {MODEL}", exact=True).click()
    await page.click("#route-form summary")
    await page.fill("#route-form [name=after]", "soon")
    await page.click("#route-review")
    await expect(page.locator("#route-error")).to_contain_text("Leg 1: the wait is no span")
    await expect(page.locator("#route-form [name=after]")).to_be_focused()
