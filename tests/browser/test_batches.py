"""A batch is watched, cancelled, tried again and downloaded; its failed lines say why."""

import json
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.batches import Batches, line, lines
from tests.browser.chromium import Visit
from tests.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

LINES = 12


async def test_a_batch_is_cancelled_and_its_end_is_seen(house: Stack, visit: Visit) -> None:
    await house.route("parked-batch", "nowhere")
    async with house.http() as http:
        batches = Batches(http)
        items = lines(LINES, body={"model": "parked-batch"})
        batch = await batches.create(items, metadata={"name": "to be cancelled"})
        await batches.until(batch["id"], "in_progress")
        page = visit.page
        await visit.open("batches")
        await page.get_by_role("link", name="to be cancelled").click()
        await expect(page.get_by_role("heading", name="to be cancelled")).to_be_visible()
        await expect(page.locator("#batch-left")).to_have_text(str(LINES))
        await page.click("#cancel-batch")
        await expect(page.get_by_role("dialog")).to_contain_text(f"{LINES} lines will not be")
        await visit.confirm("Cancel the batch")
        await expect(page.locator(".under .badge")).to_have_text("cancelled")
        await expect(page.locator("#cancel-batch")).to_be_hidden()
        assert (await batches.get(batch["id"]))["status"] == "cancelled"


async def test_failed_lines_are_shown_and_tried_again(house: Stack, visit: Visit) -> None:
    failing = {"carpool_simulate": {"status": 418}}
    items = [line("bad-1", body=failing), *lines(LINES), line("bad-2", body=failing)]
    async with house.http() as http:
        batches = Batches(http)
        batch = await batches.run(items, metadata={"name": "partly"})
        page = visit.page
        await visit.open("batches", batch["id"])
        await expect(page.locator("#batch-completed")).to_have_text(str(LINES))
        rows = page.locator("#failures-table tbody tr")
        await expect(rows).to_have_count(2)
        await expect(rows.first).to_contain_text("bad-")
        await expect(rows.first).to_contain_text("418")
        await expect(rows.first).to_contain_text("simulated: failed with status 418, as asked")
        await expect(page.locator("#download-output")).to_be_hidden()
        await page.click("#retry-batch")
        await expect(page.get_by_role("dialog")).to_contain_text("the 2 lines without an answer")
        await page.get_by_role("button", name="Make the batch").click()
        await expect(page.locator("#failures-table tbody tr")).to_have_count(2)
        await expect(page.locator("#batch-completed")).to_have_text("0")
        made = page.url.rpartition("/")[2]
        assert made != batch["id"]
        assert (await batches.ended(made))["request_counts"]["total"] == 2


async def test_who_sees_bodies_downloads_the_answers(
    house: Stack, reader: Visit, tmp_path: Path
) -> None:
    async with house.http() as http:
        batch = await Batches(http).run(lines(LINES))
    await reader.open("batches", batch["id"])
    async with reader.page.expect_download() as coming:
        await reader.page.click("#download-output")
    await (await coming.value).save_as(tmp_path / "output.jsonl")
    found = [json.loads(text) for text in (tmp_path / "output.jsonl").read_bytes().splitlines()]
    assert {item["custom_id"] for item in found} == {f"r{n}" for n in range(LINES)}
