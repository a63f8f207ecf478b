"""Only an admin's key opens the dashboard, and what ends a session leads back to the form."""

import pytest
from playwright.async_api import Browser, expect

from db.keys import create_key, revoke_key
from tests.browser.chromium import Visit, visiting
from tests.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

REFUSED = r"status of 40[13] .*/admin/v1/"
ENDED = "Your session has ended. Sign in to go on."


async def test_a_wrong_key_and_a_team_s_are_refused_and_an_admin_s_is_let_in(
    browser: Browser, house: Stack
) -> None:
    async with visiting(browser, house.root_url) as visit:
        visit.expected.append(REFUSED)
        await visit.open()
        error = visit.page.locator("#login-error")
        await visit.sign_in("sk-of-nobody")
        await expect(error).to_have_text("This key is not known, or it was revoked.")
        await expect(visit.page.locator("#login-key")).to_be_focused()
        await visit.sign_in(house.api_key)
        await expect(error).to_contain_text("This is a team's key.")
        assert await visit.page.context.cookies() == []
        await visit.sign_in(house.admin_key)
        await expect(visit.page.get_by_role("heading", name="Overview")).to_be_visible()
        [cookie] = await visit.page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        assert await visit.page.evaluate("document.cookie") == ""
        await visit.page.reload()
        await expect(visit.page.locator("#figure-waiting")).to_be_visible()


async def test_who_signs_out_is_out(visit: Visit) -> None:
    visit.expected.append(REFUSED)
    await visit.page.click("#sign-out")
    await expect(visit.page.locator("#login-key")).to_be_focused()
    assert await visit.page.context.cookies() == []
    await visit.page.reload()
    await expect(visit.page.locator("#login-key")).to_be_visible()


async def test_a_revoked_key_ends_the_session_and_another_leads_back_to_the_page(
    browser: Browser, house: Stack
) -> None:
    async with house.database() as database:
        key = await create_key(database, team="admins", name="leaver", admin=True)
    async with visiting(browser, house.root_url, key=key.secret) as visit:
        visit.expected.append(REFUSED)
        await visit.open("workers")
        await expect(visit.page.locator(".worker").first).to_be_visible()
        async with house.database() as database:
            assert await revoke_key(database, key.secret)
        await house.announce_change()
        await expect(visit.page.get_by_text(ENDED)).to_be_visible()
        await expect(visit.page.locator(".worker")).to_have_count(0)
        await visit.sign_in(house.admin_key)
        await expect(visit.page.get_by_role("heading", name="Workers", level=1)).to_be_visible()


async def test_an_expired_session_closes_an_open_dialog_and_keeps_the_page(
    browser: Browser, house: Stack, reader_key: str
) -> None:
    async with visiting(browser, house.root_url, key=reader_key) as visit:
        visit.expected.append(REFUSED)
        await visit.open("routes")
        await visit.page.get_by_role("button", name="Switch simulated", exact=True).click()
        [cookie] = await visit.page.context.cookies()
        await house.fetch(
            "update sessions set expires_at = now() where hash = sha256($1)",
            cookie["value"].encode(),
        )
        await visit.page.click("#route-review")
        await expect(visit.page.get_by_text(ENDED)).to_be_visible()
        await expect(visit.page.get_by_role("dialog")).to_have_count(0)
        await visit.sign_in(reader_key)
        await expect(visit.page.locator('.route[data-model="simulated"]')).to_be_visible()
