"""Whatever people write, it is text on every page: no element comes of it, and nothing runs."""

import pytest
from playwright.async_api import Page, expect

from tests.batches import Batches, line
from tests.browser.chromium import Visit
from tests.clients import Requests
from tests.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

IMAGE = "<img src=x onerror=alert(1)>"
SCRIPT = "</script><script>alert(2)</script>"
TEAM = f"'\"{IMAGE}"
MODEL = f'"{SCRIPT}'
CUSTOM_ID = "<svg/onload=alert(3)>"
PROMPT = f"{IMAGE}{SCRIPT}<a href=javascript:alert(4)>x</a>{{{{7*7}}}}"
MADE = """
() => document.querySelectorAll(
  "img, iframe, object, embed, [onerror], [onload], svg[onload], a[href^='javascript'],"
  + " script:not([src*='/dashboard/']):not([src^='dashboard/'])"
).length
"""


async def is_text(page: Page, text: str) -> None:
    """The text stands on the page, and no element was made of it."""
    await expect(page.get_by_text(text).filter(visible=True).first).to_be_visible()
    assert await page.evaluate(MADE) == 0


async def test_prompts_teams_models_and_ids_stay_text(house: Stack, reader: Visit) -> None:
    await house.route(MODEL, "nowhere")
    key = await house.new_key(TEAM, owner=IMAGE)
    page = reader.page
    async with house.http(key.secret) as http:
        requests = Requests(http)
        messages = [{"role": "user", "content": PROMPT}]
        left = await requests.leave(model=MODEL, messages=messages)
        body = {"messages": messages, "carpool_simulate": {"status": 418}}
        batch = await Batches(http).run(
            [line(CUSTOM_ID, body=body)], metadata={"name": PROMPT[:60], "description": IMAGE}
        )
        await reader.open("overview")
        await is_text(page, MODEL)
        await is_text(page, TEAM)
        await reader.open("routes")
        await is_text(page, MODEL)
        await page.get_by_role("button", name=f"Switch {MODEL}", exact=True).click()
        await is_text(page, f"Switch {MODEL}")
        await page.keyboard.press("Escape")
        await reader.open("requests")
        await is_text(page, TEAM)
        await reader.open("requests", left["id"])
        await is_text(page, MODEL)
        await expect(page.get_by_label("Asked", exact=True)).to_contain_text(IMAGE)
        await reader.open("batches")
        await is_text(page, PROMPT[:60])
        await reader.open("batches", batch["id"])
        await is_text(page, CUSTOM_ID)
        await requests.cancel(left["id"])
    await reader.open("playground")
    await expect(page.locator("#chat-model")).not_to_have_value("")
    await page.fill("#chat-model", "simulated")
    await page.fill("#chat-input", PROMPT)
    await page.press("#chat-input", "Enter")
    await expect(page.locator('.turn[data-backend="first"]')).to_be_visible()
    await is_text(page, PROMPT)
    await reader.open("requests", "%3Cimg%20src=x%20onerror=alert(5)%3E")
    reader.expected.append(r"status of 404 .*/admin/v1/requests/")
    await is_text(page, "<img src=x onerror=alert(5)>")
    await reader.open("overview")
    activity = page.locator("#activity")
    await activity.get_by_role("radio", name="Team", exact=True).check()
    await expect(activity.locator(".legend-name", has_text=TEAM)).to_be_visible()
    assert await page.evaluate(MADE) == 0
