"""`python -m tests.benchmarks.dashboard`: what a dashboard costs where millions of requests lie.

A million requests wait and a million have ended; a few more are asked meanwhile. What the API and
Postgres use is measured without a browser and with one that watches the overview; then each page is
opened, and timed until its figures are there.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
import psutil
from playwright.async_api import BrowserContext, expect

from tests.benchmarks.cpu import Bystanders, tree_seconds
from tests.benchmarks.machine import Machine
from tests.benchmarks.waiting_rows import TEAMS, fill
from tests.browser.chromium import chromium, visiting
from tests.clients import CHAT
from tests.stack import Stack, stack_in_temporary_directory

ROWS = 1_000_000
SECONDS = 60.0
SETTLE_SECONDS = 15.0
PAUSE_SECONDS = 0.2
AGE = timedelta(hours=1)
FIGURES = {
    "overview": "#queues-table tbody tr",
    "routes": ".route",
    "batches": "#content .table-none, #batches-table tbody tr",
    "requests": "#requests-table tbody tr",
    "workers": ".worker",
    "playground": "#chat-input",
}
"""What is there once a page shows what it is for."""
_TEAMS = "insert into teams (name) select 'team ' || n from generate_series(1, $1::int) n"
# Of an hour that has passed before the first of those that wait.
_ENDED = """
with made as (
    select
        (lpad(to_hex($2::bigint + i * 3600000 / $1), 12, '0') || '7' || substr(md5(i::text), 1, 3)
         || '8' || substr(md5(i::text), 4, 15))::uuid as id,
        1 + i % $3 as team_id, i % 50 as place
    from generate_series(0, $1::bigint - 1) i
), asked as (
    insert into requests (
        id, team_id, key_id, class, endpoint, model, streamed, body, fingerprint
    )
    select id, team_id, id, 0, 0, 'small', false, '{"model":"small"}', id from made
)
insert into results (
    id, team_id, key_id, model, outcome, status_code, body, streamed, epoch, attempts, backend,
    upstream, completed_at, prompt_tokens, completion_tokens
)
select
    id, team_id, id, 'small', (place = 0)::int, case place when 0 then 500 else 200 end, '{}',
    false, 1, 1, 'simulated', 'small', now() - interval '1 h', 20, 10
from made
"""
_LONGEST = """
window.carpoolLongest = 0;
new PerformanceObserver((list) => {
  for (const { duration } of list.getEntries())
    window.carpoolLongest = Math.max(window.carpoolLongest, duration);
}).observe({ type: "longtask", buffered: true });
"""
_FIRST_PAINT = """
() => performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? null
"""


async def main(rows: int, seconds: float) -> None:
    """Fill, measure and print; minutes."""
    machine = Machine.look()
    with stack_in_temporary_directory(prepared=False) as stack:
        _say(f"{rows:,} rows wait, and {rows:,} have ended")
        await _fill(stack, rows)
        async with light_load(stack), chromium() as browser:
            await asyncio.sleep(SETTLE_SECONDS)
            alone = await percent(stack, seconds)
            async with visiting(browser, stack.root_url, key=stack.admin_key) as visit:
                await visit.page.evaluate(_LONGEST)
                await asyncio.sleep(SETTLE_SECONDS)
                loading = await visit.page.evaluate("window.carpoolLongest")
                await visit.page.evaluate("window.carpoolLongest = 0")
                watched = await percent(stack, seconds)
                shown = await visit.page.inner_text("#figure-waiting")
                longest = await visit.page.evaluate("window.carpoolLongest")
                # Else they would pay for it with this page's share of the processor.
                await visit.open("playground")
                times = [await opened(visit.page.context, stack, page) for page in FIGURES]
    print(f"waiting, as the page shows it: {shown}")
    for name, before, during in zip(("API", "Postgres"), alone[:2], watched[:2], strict=True):
        print(
            f"{name}: {before:.2f} % of a core without a watcher, {during:.2f} % with one: "
            f"{during - before:+.2f} %"
        )
    print(f"others: {alone[2]:.0f} % and {watched[2]:.0f} % of all cores meanwhile")
    print(
        f"longest task of the overview: {loading:.0f} ms as it and its charts are loaded, "
        f"{longest:.0f} ms in the {seconds:.0f} s after (0: below 50)"
    )
    for page, (paint, figures, task) in zip(FIGURES, times, strict=True):
        print(
            f"{page}: first paint after {paint:.0f} ms, figures after {figures:.0f} ms, "
            f"longest task until then {task:.0f} ms"
        )
    print("\n".join(machine.notes()))


@asynccontextmanager
async def light_load(stack: Stack) -> AsyncIterator[None]:
    """A client that asks a few times a second."""

    async def ask() -> None:
        async with stack.http() as http:
            while True:
                answer = await http.post("/chat/completions", json=CHAT)
                assert answer.status_code == 200, answer.text
                await asyncio.sleep(PAUSE_SECONDS)

    asking = asyncio.create_task(ask())
    try:
        yield
        assert not asking.done(), asking
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def percent(stack: Stack, seconds: float) -> tuple[float, float, float]:
    """CPU of the API and of Postgres in percent of one core, and others' of all cores."""
    processes = [psutil.Process(stack.pid(name)) for name in ("api", "postgres")]
    others = Bystanders()
    before, began = [tree_seconds(one) for one in processes], time.monotonic()
    await asyncio.sleep(seconds)
    passed = time.monotonic() - began
    api, postgres = (
        100 * (tree_seconds(one) - was) / passed for one, was in zip(processes, before, strict=True)
    )
    return api, postgres, others.percent()


async def opened(context: BrowserContext, stack: Stack, page: str) -> tuple[float, float, float]:
    """Milliseconds to a page's first paint and to its figures, and its longest task's."""
    tab = await context.new_page()
    try:
        await tab.add_init_script(_LONGEST)
        began = time.monotonic()
        await tab.goto(f"{stack.root_url}/dashboard#/{page}")
        await expect(tab.locator(FIGURES[page]).filter(visible=True).first).to_be_visible(
            timeout=60_000
        )
        figures = 1000 * (time.monotonic() - began)
        paint = float(await tab.evaluate(_FIRST_PAINT))
        return paint, figures, float(await tab.evaluate("window.carpoolLongest"))
    finally:
        await tab.close()


async def _fill(stack: Stack, rows: int) -> None:
    connection = await asyncpg.connect(stack.database_url)
    try:
        begin = datetime.now(UTC) - AGE
        await connection.execute(_TEAMS, TEAMS)
        await fill(connection, rows, begin)
        first = int((begin - AGE).timestamp() * 1000)
        await connection.execute(_ENDED, rows, first, TEAMS, timeout=None)
        await connection.execute("vacuum (analyze) requests, results", timeout=None)
        await connection.execute("checkpoint", timeout=None)
    finally:
        await connection.close()


def _options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.dashboard")
    parser.add_argument("--rows", type=int, default=ROWS, help="that wait, and that have ended")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each measurement")
    return parser.parse_args(arguments)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    chosen = _options()
    asyncio.run(main(chosen.rows, chosen.seconds))
