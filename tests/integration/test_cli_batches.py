"""`carpool batches` lists, shows, cancels, retries and downloads what was submitted."""

import re

import pytest
from openai import OpenAI

from tests.integration.work import ASK, Work, batches, failing, prompts, request


def test_batches_are_looked_after(work: Work, client: OpenAI) -> None:
    work.write("a.jsonl", request("good") + request("bad", **failing(400)))
    work.run("submit", "a.jsonl", code=3)
    (first,) = batches(client)
    again = work.run("batches", "retry", first.id).stdout.strip()
    assert [batch.id for batch in batches(client)] == [first.id, again]
    listed = work.run("batches", "list", "--limit", "5").stdout
    assert listed.index(again) < listed.index(first.id)
    assert first.id not in work.run("batches", "list", "--limit", "1").stdout
    shown = work.run("batches", "show", first.id).stdout
    assert re.search(r"^status +completed$", shown, re.MULTILINE)
    assert re.search(
        r'^request_counts +\{"completed":1,"failed":1,"total":2\}', shown, re.MULTILINE
    )
    names = work.run("batches", "download", first.id).stdout.splitlines()
    assert names == [f"{first.id}.output.jsonl", f"{first.id}.errors.jsonl"]
    assert [line["custom_id"] for name in names for line in work.objects(name)] == ["good", "bad"]
    work.run("batches", "download", first.id, "--output", "mine.jsonl")
    assert {"mine.jsonl", "mine.errors.jsonl"} < set(work.left)


@pytest.mark.parametrize("command", ["show", "cancel", "retry", "download"])
def test_a_batch_that_is_none_is_told(work: Work, command: str) -> None:
    said = work.run("batches", command, f"batch_{'0' * 32}", code=1)
    assert said.stderr.startswith("carpool: The server says 404: ")


def test_what_cannot_be_done_to_a_batch_is_told(work: Work, client: OpenAI) -> None:
    work.write("a.txt", prompts(1))
    work.run("submit", "a.txt", *ASK)
    (batch,) = batches(client)
    cancelled = work.run("batches", "cancel", batch.id, code=1)
    assert "Cannot cancel a batch with status 'completed'." in cancelled.stderr
    assert "The server says 400" in work.run("batches", "retry", batch.id, code=2).stderr
