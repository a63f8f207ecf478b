"""Debian's Chromium without a window, and a visit of the dashboard that notices what is wrong."""

import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import (
    Browser,
    ConsoleMessage,
    Dialog,
    Locator,
    Page,
    Request,
    async_playwright,
    expect,
)

PATIENCE_MILLISECONDS = 60_000
"""Of a loaded machine; what must be quick is timed by its test."""
WIDE = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
PAGES = ("overview", "routes", "batches", "requests", "workers", "playground")
MOST_TABS = 80
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
EXPECTED = (
    # plotly.js writes a style into the page, which the policy forbids; charts.css has what it needs
    r"Applying inline style violates .*style-src 'self'",
    # the page asks whether there is a session already
    r"status of 401 .*/admin/v1/session$",
)
_HAS_FOCUS = "element => element === document.activeElement"

expect.set_options(timeout=PATIENCE_MILLISECONDS)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A browser process; AssertionError where it is not installed."""
    program = shutil.which("chromium")
    assert program is not None, "`python -m tests.programs` installs what the tests drive"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=[*FLAGS])
        try:
            yield browser
        finally:
            await browser.close()


class Visit:
    """One page of the browser at one Carpool's dashboard."""

    def __init__(self, page: Page, root: str) -> None:
        self.page = page
        self.expected = [*EXPECTED]
        """Patterns of what the console may report; a test that breaks something adds its own."""
        self._root = root
        self._reported: list[str] = []
        self._elsewhere: list[str] = []
        self._dialogs: list[str] = []
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self._reported.append(str(error)))
        page.on("request", self._follow)
        page.on("dialog", self._refuse)

    async def open(self, page: str = "", identifier: str | None = None) -> None:
        """A page by its address; an open dashboard only changes to it."""
        path = page if identifier is None else f"{page}/{identifier}"
        await self.page.goto(f"{self._root}/dashboard{f'#/{path}' if path else ''}")

    async def sign_in(self, key: str) -> None:
        """Fill in the form and send it, whatever becomes of it."""
        await self.page.fill("#login-key", key)
        await self.page.click("#login-submit")

    async def confirm(self, action: str) -> None:
        """Agree to the question that is open."""
        dialog = self.page.get_by_role("dialog")
        await dialog.get_by_role("button", name=action, exact=True).click()
        await expect(dialog).to_have_count(0)

    async def tab_to(self, wanted: Locator) -> None:
        """Press Tab until this has the focus; AssertionError where that never happens."""
        for _ in range(MOST_TABS):
            if await wanted.evaluate(_HAS_FOCUS):
                return
            await self.page.keyboard.press("Tab")
        raise AssertionError(f"No number of tabs leads to {wanted}.")

    def well(self) -> None:
        """AssertionError for an unexpected report, a request elsewhere, or a script's dialog."""
        odd = [
            said
            for said in self._reported
            if not any(re.search(pattern, said) for pattern in self.expected)
        ]
        assert (odd, self._elsewhere, self._dialogs) == ([], [], [])

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._reported.append(f"{message.text} {message.location.get('url', '')}")

    def _follow(self, request: Request) -> None:
        if not request.url.startswith((f"{self._root}/", "data:", "blob:")):
            self._elsewhere.append(request.url)

    async def _refuse(self, dialog: Dialog) -> None:
        self._dialogs.append(dialog.message)
        await dialog.dismiss()


@asynccontextmanager
async def visiting(
    browser: Browser, root: str, *, key: str | None = None, **options: Any
) -> AsyncIterator[Visit]:
    """A visit in a profile of its own, signed in where there is a key, and well at its end.

    ``options`` are those of a browser's context: ``viewport``, ``color_scheme``, …
    """
    context = await browser.new_context(**({"viewport": WIDE} | options))
    try:
        context.set_default_timeout(PATIENCE_MILLISECONDS)
        visit = Visit(await context.new_page(), root)
        if key is not None:
            await visit.open()
            await visit.sign_in(key)
            await expect(visit.page.locator("#figure-waiting")).to_be_visible()
        yield visit
        visit.well()
    finally:
        await context.close()
