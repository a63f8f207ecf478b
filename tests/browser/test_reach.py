"""The dashboard is used by keyboard alone, on a phone, and in the dark."""

import pytest
from playwright.async_api import Browser, expect

from tests.batches import Batches, line
from tests.browser.chromium import PAGES, PHONE, Visit, visiting
from tests.clients import Requests
from tests.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

LONG = "a-name-as-long-as-people-make-them-" * 5
BRIGHTNESS = """
() => ["backgroundColor", "color"].map((name) => {
  const [red, green, blue] = getComputedStyle(document.body)[name].match(/[\\d.]+/g).map(Number);
  return (0.299 * red + 0.587 * green + 0.114 * blue) / 255;
})
"""
BESIDE = "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"


async def test_the_keyboard_is_enough(browser: Browser, house: Stack) -> None:
    """Sign in, change the page, open a dialog, put it away, and be where one was."""
    async with visiting(browser, house.root_url) as visit:
        page = visit.page
        await visit.open()
        await expect(page.locator("#login-key")).to_be_focused()
        await page.keyboard.type(house.admin_key)
        await page.keyboard.press("Enter")
        await expect(page.locator("#figure-waiting")).to_be_visible()
        await visit.tab_to(page.locator("#nav-routes"))
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Models and routes")).to_be_focused()
        button = page.get_by_role("button", name="Switch simulated", exact=True)
        await expect(button).to_be_visible()
        await visit.tab_to(button)
        await page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog")
        await expect(dialog).to_be_visible()
        assert await dialog.evaluate("dialog => dialog.contains(document.activeElement)")
        await visit.tab_to(page.locator("#route-review"))
        await page.keyboard.press("Enter")
        await expect(page.locator("#route-confirm")).to_be_focused()
        await page.keyboard.press("Escape")
        await expect(dialog).to_have_count(0)
        await expect(button).to_be_focused()


async def test_no_page_is_wider_than_a_phone(browser: Browser, house: Stack) -> None:
    """Not even with names that have no place to break."""
    await house.route(LONG, "nowhere")
    key = await house.new_key(LONG)
    async with house.http(key.secret) as http:
        requests = Requests(http)
        left = await requests.leave(model=LONG)
        failing = {"carpool_simulate": {"status": 418}}
        batch = await Batches(http).run([line(LONG, body=failing)], metadata={"name": LONG})
        async with visiting(
            browser, house.root_url, key=house.admin_key, viewport=PHONE, has_touch=True
        ) as visit:
            page = visit.page
            places = [*((name, None) for name in PAGES)]
            for name, identifier in (*places, ("requests", left["id"]), ("batches", batch["id"])):
                await visit.open(name, identifier)
                if identifier is None:
                    await expect(page.locator(f"#nav-{name}")).to_have_attribute(
                        "aria-current", "page"
                    )
                await expect(page.locator("#content .loading").filter(visible=True)).to_have_count(
                    0
                )
                content, screen = await page.evaluate(BESIDE)
                assert content <= screen == PHONE["width"], (name, identifier)
            await page.click("#menu-button")
            await page.click("#nav-workers")
            await expect(page.get_by_role("heading", name="Workers", level=1)).to_be_visible()
        await requests.cancel(left["id"])


async def test_the_dark_scheme_is_the_system_s_until_another_is_chosen(
    browser: Browser, house: Stack
) -> None:
    async with visiting(browser, house.root_url, key=house.admin_key, color_scheme="dark") as visit:
        background, text = await visit.page.evaluate(BRIGHTNESS)
        assert background < 0.2 < 0.7 < text
        await visit.page.select_option("#appearance", "light")
        background, text = await visit.page.evaluate(BRIGHTNESS)
        assert text < 0.3 < 0.9 < background
        await visit.page.reload()
        await expect(visit.page.locator("#figure-waiting")).to_be_visible()
        assert await visit.page.evaluate(BRIGHTNESS) == [background, text]


async def test_each_page_says_where_one_is(visit: Visit) -> None:
    """By its title, its one first heading, and the link that is marked."""
    for name in PAGES:
        await visit.page.click(f"#nav-{name}")
        await expect(visit.page.locator("[aria-current=page]")).to_have_id(f"nav-{name}")
        await expect(visit.page.locator("h1")).to_be_focused()
        heading = (await visit.page.locator("h1").inner_text()).split()[0]
        assert (await visit.page.title()).split(" · ") == [heading, "Carpool"]
