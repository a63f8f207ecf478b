"""The dashboard's files: fresh after an upgrade, kept before it, and nothing from elsewhere."""

import gzip
import re
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from typing import cast

import httpx
import pytest
import pytest_asyncio

from api.app import make_app
from api.dashboard import assets as asset_files
from api.dashboard.assets import assets, assets_version, plotly_version
from api.services import Services

STATIC = Path(str(files("api.dashboard").joinpath("static")))
NAMES = sorted(path.name for path in STATIC.iterdir())
NAMESPACE = "http://www.w3.org/2000/svg"
"""A name of XML's, no address: nothing is fetched from there."""


@pytest_asyncio.fixture
async def browser() -> AsyncIterator[httpx.AsyncClient]:
    """The API without any of its services: its pages need neither database nor key."""
    transport = httpx.ASGITransport(make_app(cast(Services, None)))
    async with httpx.AsyncClient(transport=transport, base_url="http://carpool") as client:
        yield client


def address(name: str) -> str:
    return f"/dashboard/{assets_version()}/{name}"


PAGES = ("/dashboard", address("app.js"), address("shell.css"), "/dashboard/plotly.js")


@pytest.mark.parametrize("path", PAGES)
async def test_everything_comes_from_here_and_is_framed_by_nobody(
    browser: httpx.AsyncClient, path: str
) -> None:
    """No script or style from elsewhere or from within the page; no guessing of types."""
    answer = await browser.get(path)
    assert answer.status_code == 200
    policy = dict(
        directive.strip().split(" ", 1)
        for directive in answer.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", PAGES)
async def test_what_a_browser_has_already_is_not_sent_again(
    browser: httpx.AsyncClient, path: str
) -> None:
    first = await browser.get(path)
    for tag in (first.headers["etag"], f'"other", {first.headers["etag"]}'):
        again = await browser.get(path, headers={"if-none-match": tag})
        assert again.status_code == 304
        assert again.content == b""
        assert again.headers["etag"] == first.headers["etag"]
    changed = await browser.get(path, headers={"if-none-match": '"other"'})
    assert changed.status_code == 200


@pytest.mark.parametrize("path", PAGES)
async def test_files_are_packed_for_those_who_can_unpack(
    browser: httpx.AsyncClient, path: str
) -> None:
    plain = await browser.get(path, headers={"accept-encoding": "br, gzip;q=0"})
    assert "content-encoding" not in plain.headers
    async with browser.stream("GET", path, headers={"accept-encoding": "br, gzip"}) as packed:
        raw = b"".join([part async for part in packed.aiter_raw()])
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["vary"] == plain.headers["vary"] == "accept-encoding"
    assert gzip.decompress(raw) == plain.content
    assert len(raw) < len(plain.content)


async def test_versioned_files_are_kept_and_the_page_is_asked_for_each_time(
    browser: httpx.AsyncClient,
) -> None:
    """A file under another process's version is served, for pages in an upgrade, but not kept."""
    assert (await browser.get("/dashboard")).headers["cache-control"] == "no-cache"
    assert "immutable" in (await browser.get(address("app.js"))).headers["cache-control"]
    other = await browser.get("/dashboard/0123456789abcdef/app.js")
    assert other.status_code == 200
    assert other.headers["cache-control"] == "no-cache"
    kept = await browser.get(f"/dashboard/plotly.js?v={plotly_version()}")
    assert "immutable" in kept.headers["cache-control"]
    old = await browser.get("/dashboard/plotly.js?v=0.1")
    assert old.headers["cache-control"] == "no-cache"


def test_a_changed_file_has_a_new_address(monkeypatch: pytest.MonkeyPatch) -> None:
    before = assets_version()
    contents = {path.name: path.read_bytes() for path in STATIC.iterdir()}
    monkeypatch.setattr(asset_files, "_contents", lambda: contents | {"app.js": b"// changed"})
    assert assets_version.__wrapped__() != before


async def test_the_page_names_files_that_exist_and_every_module(
    browser: httpx.AsyncClient,
) -> None:
    page = (await browser.get("/dashboard")).text
    assert "{{" not in page
    named = re.findall(r'(?:href|src|content)="(dashboard/[^"]+)"', page)
    for path in named:
        assert (await browser.get(f"/{path}")).status_code == 200, path
    loaded = {path.rpartition("/")[2] for path in named}
    assert {name for name in NAMES if name != "index.html"} <= loaded


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(".js")])
def test_each_module_imports_modules_that_exist(name: str) -> None:
    text = (STATIC / name).read_text()
    for imported in re.findall(r'from "([^"]+)"', text):
        assert imported.startswith("./"), imported
        assert (STATIC / imported).is_file(), imported


@pytest.mark.parametrize(
    "path",
    [
        address("absent.js"),
        address("index.html"),
        address("pages.py"),
        address("%2e%2e"),
        "/dashboard/%2e%2e/pages.py",
        address("%2e%2e%2fpages.py"),
        address("..%2f..%2fapp.py"),
        address("%2fetc%2fpasswd"),
        address("app.js%00.css"),
        address("..%5cpages.py"),
        "/dashboard/static/pages.py",
        "/dashboard/a/b/app.js",
    ],
)
async def test_no_other_file_is_served(browser: httpx.AsyncClient, path: str) -> None:
    assert (await browser.get(path)).status_code == 404


@pytest.mark.parametrize("name", NAMES)
def test_no_file_speaks_of_an_address_elsewhere(name: str) -> None:
    text = (STATIC / name).read_text().replace(NAMESPACE, "")
    assert re.findall(r"\b(?:https?|wss?)://|[\"'(]//", text) == []


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith((".js", ".html"))])
def test_text_never_becomes_markup(name: str) -> None:
    """Prompts and names are the clients': no file has a way to make elements of them."""
    text = (STATIC / name).read_text()
    ways = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|setHTML|\beval\b|srcdoc"
    )
    assert re.findall(ways, text) == []
    assert re.findall(r"<script(?![^>]*\ssrc=)|\son\w+=\"|\sstyle=\"|javascript:", text) == []


async def test_an_address_with_a_slash_leads_to_the_page(browser: httpx.AsyncClient) -> None:
    answer = await browser.get("/dashboard/", follow_redirects=True)
    assert answer.url.path == "/dashboard"
    assert answer.status_code == 200


def test_every_file_has_a_type() -> None:
    assert sorted(assets()) == NAMES
