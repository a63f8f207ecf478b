"""`python -m tests.pictures` takes the README's pictures of the dashboard into `deploy/pictures`.

A whole Carpool runs for some minutes with teams, batches and a load that swells and ebbs; its
engines are simulated and bear the names that a team would give to real ones. Every figure on the
pictures is that of a request that was made.
"""

import argparse
import asyncio
import io
import math
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.async_api import Browser, Page, expect

from db.keys import create_key
from tests.batches import Batches, line
from tests.browser.chromium import PHONE, chromium, visiting
from tests.clients import Requests
from tests.stack import Json, Stack, stack_in_temporary_directory

PLACE = Path(__file__).parents[1] / "deploy" / "pictures"
MINUTES = 6.0
"""Of load before the pictures: a chart of the last hour shows ten minutes at least."""
SCALE = 1.5
MOST_BYTES = 250_000
SIZE = {"width": 1280, "height": 800}
COLOURS = 256
CONFIG = """
[backends.gpu]
kind = "simulated"
first_token_milliseconds = 180
token_milliseconds = 12
slots = 24

[backends.openai]
kind = "simulated"
first_token_milliseconds = 420
token_milliseconds = 16
slots = 64

[[models.assistant.legs]]
backend = "gpu"
upstream = "qwen3-32b"

[[models.assistant.legs]]
backend = "openai"
upstream = "gpt-6.1-terra"
after_seconds = 20

[[models.drafts.legs]]
backend = "openai"
upstream = "gpt-6-luna"

[models.search]
backends = ["gpu"]
upstream = "bge-m4"
cache_seconds = 3600

[models.best]
alias = "assistant"

[[prices]]
model = "assistant"
since = 2026-01-01
input = 2.50
output = 15

[[prices]]
model = "gpt-6.1-terra"
backend = "openai"
since = 2026-01-01
input = 2.50
output = 15

[[prices]]
model = "gpt-6-luna"
backend = "openai"
since = 2026-01-01
input = 0.40
output = 1.60
"""
BATCH_SECONDS = 50.0
BATCHES = (
    ("support", "assistant", "Reviews, sentiment", 500),
    ("product", "drafts", "Texts in French", 900),
    ("research", "assistant", "Papers, abstracts", 700),
)
"""One after the other, each so long after the one before: team, model, name and lines."""
QUESTIONS = (
    "Summarize this ticket in one line: the export stops at row 4,096.",
    "Write a polite answer to a customer whose parcel is late.",
    "Which of our contracts end before March, and with what notice?",
    "Explain the difference between a lease and a lock in two sentences.",
    "Translate to German: the pump may be started once the valve is open.",
)


@dataclass(frozen=True, slots=True)
class Traffic:
    """How a team asks: on average so often a second, for so many tokens, of that model."""

    team: str
    owner: str
    model: str
    _: KW_ONLY
    per_second: float
    tokens: int
    period_seconds: float
    """The load swells and ebbs once in this time."""


TRAFFIC = (
    Traffic("support", "Ines", "assistant", per_second=5, tokens=90, period_seconds=170),
    Traffic("research", "Tomasz", "assistant", per_second=2, tokens=220, period_seconds=260),
    Traffic("product", "Mei", "drafts", per_second=3, tokens=60, period_seconds=120),
    Traffic("product", "Jonas", "search", per_second=2, tokens=16, period_seconds=90),
)


async def main(minutes: float) -> None:
    """Let a Carpool work for so long, and take all pictures."""
    with tempfile.TemporaryDirectory(prefix="carpool-pictures-") as directory:
        config = Path(directory) / "carpool.toml"
        config.write_text(CONFIG)
        with stack_in_temporary_directory(options=("--config", str(config))) as stack:
            async with Demonstration.begun(stack) as shown:
                await shown.prepare()
                await asyncio.sleep(60 * minutes)
                await shown.last_minute()
                await take(shown)


class Demonstration:
    """The load on a Carpool, and what of it is worth a picture."""

    def __init__(self, stack: Stack, stays: AsyncExitStack) -> None:
        self.stack = stack
        self.admin_key = ""
        self.batch = ""
        self.request = ""
        self._stays = stays
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._random = random.Random(7)
        self._begun = time.monotonic()

    @classmethod
    @asynccontextmanager
    async def begun(cls, stack: Stack) -> AsyncIterator["Demonstration"]:
        """With the traffic of all teams for the length of the context."""
        async with AsyncExitStack() as stays:
            shown = cls(stack, stays)
            async with stack.database() as database:
                key = await create_key(
                    database, team="platform", name="laptop", owner="Anna", admin=True,
                    sees_bodies=True,
                )  # fmt: skip
            shown.admin_key = key.secret
            asking = [asyncio.create_task(shown._ask_on(one)) for one in TRAFFIC]
            asking.append(asyncio.create_task(shown._submit_on()))
            try:
                yield shown
            finally:
                for task in asking:
                    task.cancel()
                await asyncio.gather(*asking, return_exceptions=True)

    async def http(self, team: str, owner: str | None = None) -> httpx.AsyncClient:
        """A client of a team."""
        if team not in self._clients:
            key = await self.stack.new_key(team, owner=owner)
            http = await self._stays.enter_async_context(self.stack.http(key.secret))
            http.timeout = httpx.Timeout(120)
            self._clients[team] = http
        return self._clients[team]

    async def prepare(self) -> None:
        """Batches in all states, of which some lines fail, and a switch of a route or two."""
        legal = Batches(await self.http("legal", "Ruth"))
        await legal.create(
            self._lines("contract", 600, tokens=40, failing=17),
            metadata={"name": "Contracts by risk"},
        )
        research = Batches(await self.http("research", "Tomasz"))
        stopped = await research.create(
            self._lines("survey", 400, tokens=120), metadata={"name": "Survey, first try"}
        )
        await research.until(stopped["id"], "in_progress")
        await self._route("drafts", {"backend": "gpu", "upstream": "qwen3-32b"})
        await asyncio.sleep(20)
        await research.cancel(stopped["id"])
        await self._route("drafts", {"backend": "openai", "upstream": "gpt-6-luna"})

    async def last_minute(self) -> None:
        """What is under way on the pictures: a long batch, and a queue that has reason to wait."""
        support = Batches(await self.http("support"))
        done = await support.create(
            self._lines("ticket", 300, tokens=30), metadata={"name": "Tickets, tagged"}
        )
        await support.ended(done["id"], seconds=240)
        research = Batches(await self.http("research"))
        running = await research.create(
            self._lines("survey", 4000, tokens=120, failing=60),
            metadata={"name": "Survey, coded"},
        )
        self.batch = running["id"]
        requests = Requests(await self.http("support"))
        left = await requests.leave(
            model="assistant",
            messages=[{"role": "user", "content": QUESTIONS[1]}],
            max_tokens=60,
            carpool_simulate={"status": 503, "times": 1, "retry_after_seconds": 1},
        )
        self.request = left["id"]
        await requests.until(left["id"], "completed")
        await asyncio.sleep(45)

    async def _route(self, model: str, leg: Json) -> None:
        async with self.stack.http(self.admin_key) as http:
            answer = await http.put(
                f"{self.stack.root_url}/admin/v1/routes/{model}", json={"legs": [leg]}
            )
            assert answer.status_code == 200, answer.text

    async def _submit_on(self) -> None:
        for team, model, name, number in BATCHES:
            await asyncio.sleep(BATCH_SECONDS)
            items = self._lines(team, number, tokens=50, model=model)
            await Batches(await self.http(team)).create(items, metadata={"name": name})

    def _lines(
        self, name: str, number: int, *, tokens: int, failing: int = 0, model: str = "assistant"
    ) -> list[Json]:
        """Lines of a batch, so many of which are refused."""
        refused = set(self._random.sample(range(number), failing))
        return [
            line(
                f"{name}-{n:04}",
                body={
                    "model": model,
                    "messages": [{"role": "user", "content": self._random.choice(QUESTIONS)}],
                    "max_tokens": self._random.randint(tokens // 2, 2 * tokens),
                }
                | ({"carpool_simulate": {"status": 400}} if n in refused else {}),
            )
            for n in range(number)
        ]

    async def _ask_on(self, traffic: Traffic) -> None:
        http = await self.http(traffic.team, traffic.owner)
        async with asyncio.TaskGroup() as asking:
            while True:
                asking.create_task(self._ask(http, traffic))
                turn = 2 * math.pi * (time.monotonic() - self._begun) / traffic.period_seconds
                rate = traffic.per_second * (1 + 0.7 * math.sin(turn))
                await asyncio.sleep(self._random.expovariate(rate))

    async def _ask(self, http: httpx.AsyncClient, traffic: Traffic) -> None:
        body: Json = {
            "model": traffic.model,
            "messages": [
                {"role": "system", "content": f"You help the team {traffic.team}. Be brief."},
                {"role": "user", "content": self._random.choice(QUESTIONS)},
            ],
            "max_tokens": max(4, int(self._random.gauss(traffic.tokens, traffic.tokens / 3))),
        }
        if self._random.random() < 0.01:
            body["carpool_simulate"] = {"status": 400}
        await http.post("/chat/completions", json=body)


async def take(shown: Demonstration) -> None:
    """All pictures."""
    root, key = shown.stack.root_url, shown.admin_key
    async with chromium() as browser:
        async with visiting(
            browser, root, key=key, viewport=SIZE, device_scale_factor=SCALE
        ) as visit:
            page = visit.page
            await expect(page.locator("#depths .legend-item").first).to_be_visible()
            await expect(page.locator("#activity .legend-item").first).to_be_visible()
            await save(page, "overview", height=1370)
            await visit.open("routes")
            await expect(page.locator("#route-changes tbody tr").first).to_be_visible()
            await save(page, "routes")
            await visit.open("batches", shown.batch)
            await expect(page.locator("#failures-table tbody tr").nth(4)).to_be_visible()
            await visit.open("batches")
            await expect(page.locator("#batches-table tbody tr").nth(3)).to_be_visible()
            await save(page, "batches", height=700)
            await visit.open("requests", shown.request)
            await expect(page.locator("#timeline .step").last).to_be_visible()
            await save(page, "request", height=1000)
            await visit.open("workers")
            await expect(page.locator(".worker .run").nth(1)).to_be_visible()
            await save(page, "workers")
            await visit.open("playground")
            await talk(page, shown)
            await save(page, "playground", height=940)
        await take_phone(browser, root, key)


async def talk(page: Page, shown: Demonstration) -> None:
    """A talk in the middle of which the route is switched."""
    await expect(page.locator("#chat-model")).not_to_have_value("")
    await page.fill("#chat-model", "drafts")
    await page.fill("#chat-limit", "40")
    for text, leg in (
        ("Who are you, and where do you run?", None),
        ("And now?", {"backend": "gpu", "upstream": "qwen3-32b"}),
    ):
        if leg is not None:
            await shown._route("drafts", leg)
        await page.fill("#chat-input", text)
        await page.press("#chat-input", "Enter")
        await expect(page.locator("#chat-stop")).to_be_visible()
        await expect(page.locator("#chat-stop")).to_be_hidden(timeout=60_000)


async def take_phone(browser: Browser, root: str, key: str) -> None:
    """The overview in the dark, on a phone."""
    options: dict[str, Any] = {"viewport": PHONE, "device_scale_factor": SCALE}
    async with visiting(browser, root, key=key, color_scheme="dark", **options) as visit:
        await expect(visit.page.locator("#depths .legend-item").first).to_be_visible()
        await save(visit.page, "overview-phone")


async def save(page: Page, name: str, *, height: int | None = None) -> None:
    """Keep what is seen, in so few colours that the file stays small."""
    size = page.viewport_size
    assert size is not None
    if height is not None:
        await page.set_viewport_size({"width": size["width"], "height": height})
    await page.evaluate("document.fonts.ready.then(() => document.activeElement?.blur())")
    taken = Image.open(io.BytesIO(await page.screenshot(animations="disabled")))
    path = PLACE / f"{name}.png"
    taken.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    await page.set_viewport_size({"width": size["width"], "height": size["height"]})
    kilobytes = path.stat().st_size / 1000
    print(f"{path.name}: {kilobytes:.0f} kB", file=sys.stderr)
    assert path.stat().st_size < MOST_BYTES


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.pictures", description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help="of load before the pictures"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    asyncio.run(main(options().minutes))
