"""All that an ended batch has is gathered, though it comes late, or is in its files alone."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest
from openai.types import Batch

from cli.bulk import submission
from cli.bulk.options import Options
from cli.bulk.partial import opened_partial
from cli.bulk.plan import Limits, Plan, make_plan
from cli.bulk.progress import PlainLines
from cli.bulk.server import Page, Server
from cli.bulk.source import Source, settled
from cli.bulk.state import State, begun, fingerprint, load_state
from cli.bulk.submission import Submission


class FakeServer:
    """Gives scripted pages of results, and files in small pieces."""

    def __init__(self, status: str = "completed") -> None:
        self.status = status
        self.pages: dict[str, list[list[str]]] = {}
        """By batch: what each call gives; nothing once they are used up."""
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []

    async def batch(self, identifier: str, wait_seconds: float = 0) -> Batch:
        files = {name: f"{name}-{identifier}" for name in ("output_file_id", "error_file_id")}
        return Batch.model_validate(
            {
                "id": identifier,
                "object": "batch",
                "completion_window": "24h",
                "created_at": 0,
                "endpoint": "/v1/chat/completions",
                "input_file_id": "file-1",
                "status": self.status,
                **{name: file for name, file in files.items() if file in self.files},
            }
        )

    async def results(self, identifier: str, cursor: str | None) -> Page:
        self.asked.append((identifier, cursor))
        await asyncio.sleep(0)
        pages = self.pages.get(identifier, [])
        lines = pages.pop(0) if pages else []
        number = int(cursor or 0) + len(lines)
        return Page(lines=b"".join(map(line, lines)), cursor=str(number), more=False)

    async def chunks(self, identifier: str) -> AsyncIterator[bytes]:
        content = self.files[identifier]
        for begin in range(0, len(content), 7):
            await asyncio.sleep(0)
            yield content[begin : begin + 7]


def line(custom_id: str, answer: str = "") -> bytes:
    return f'{{"custom_id":"{custom_id}","response":null,"x":"{answer}"}}\n'.encode()


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "PAUSE_SECONDS", 0)


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def source(tmp_path: Path) -> Source:
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\nthree\nfour\n")
    kind, options = settled(path, Options(model="m"))
    return Source(path, kind, options)


@pytest.fixture
def plan(source: Source) -> Plan:
    return make_plan(source, Limits(requests=2, bytes=10_000))


@pytest.fixture
def state(source: Source, plan: Plan) -> State:
    """Of two parts that are batches."""
    limits = Limits(requests=2, bytes=10_000)
    made = begun(fingerprint(source.path), source.options, limits, "http://a/v1", plan)
    for part in made.parts:
        part.file_id, part.batch_id = f"file-{part.number}", f"batch_{part.number}"
    return made


@pytest.fixture
def gather(
    tmp_path: Path, server: FakeServer, source: Source, plan: Plan, state: State
) -> Callable[[], dict[str, bytes]]:
    """Gathers all results; the line of each request that has one, by custom_id."""

    def gathered() -> dict[str, bytes]:
        work = Submission(
            server=cast(Server, server),
            told=PlainLines(),
            source=source,
            state=state,
            state_path=tmp_path / "state.json",
        )
        with opened_partial(tmp_path / "partial") as partial:
            asyncio.run(work.gather(partial))
            places = list(partial.places(plan))
            return {
                f"row-{number}": partial.line_at(place)
                for number, place in enumerate(places, 1)
                if place >= 0
            }

    return gathered


Gather = Callable[[], dict[str, Any]]


def test_lines_that_come_after_the_end_are_waited_for(server: FakeServer, gather: Gather) -> None:
    server.pages = {"batch_1": [["row-2"], [], ["row-1"]], "batch_2": [["row-3", "row-4"]]}
    assert set(gather()) == {"row-1", "row-2", "row-3", "row-4"}
    assert [cursor for batch, cursor in server.asked if batch == "batch_1"] == [None, "1", "1"]


def test_lines_that_are_in_the_files_alone_are_taken_from_there(
    server: FakeServer, gather: Gather, state: State
) -> None:
    """So it is with those that expired before they were queued."""
    server.status = "expired"
    server.pages = {"batch_1": [["row-1"]], "batch_2": [["row-4"]]}
    for number, (done, left) in enumerate([("row-1", "row-2"), ("row-4", "row-3")], 1):
        server.files[f"output_file_id-batch_{number}"] = line(done, "again")
        server.files[f"error_file_id-batch_{number}"] = line(left)
    found = gather()
    assert found["row-1"] == line("row-1", "again")
    assert found["row-2"] == line("row-2")
    assert set(found) == {"row-1", "row-2", "row-3", "row-4"}
    assert all(part.whole for part in state.parts)


def test_a_batch_that_was_cancelled_before_it_began_has_nothing(
    server: FakeServer, gather: Gather
) -> None:
    server.status = "cancelled"
    assert gather() == {}


def test_what_was_gathered_is_not_asked_for_again(
    tmp_path: Path, server: FakeServer, gather: Gather
) -> None:
    server.pages = {"batch_1": [["row-1", "row-2"]], "batch_2": [["row-3", "row-4"]]}
    first = gather()
    server.asked.clear()
    assert gather() == first
    assert server.asked == []


def test_lines_beyond_what_the_state_knows_are_dropped(
    tmp_path: Path, server: FakeServer, gather: Gather
) -> None:
    """A kill between the lines and the cursor that stands for them."""
    (tmp_path / "partial").write_bytes(line("row-1") + b'{"custom_id":"ro')
    server.pages = {"batch_1": [["row-1", "row-2"]], "batch_2": [["row-3", "row-4"]]}
    gather()
    written = (tmp_path / "partial").read_bytes()
    assert sorted(written.splitlines(keepends=True)) == [line(f"row-{n}") for n in range(1, 5)]


def test_lost_lines_are_asked_for_from_the_first_on(
    tmp_path: Path, server: FakeServer, gather: Gather, state: State
) -> None:
    everything = {"batch_1": [["row-1", "row-2"]], "batch_2": [["row-3", "row-4"]]}
    server.pages = {name: list(pages) for name, pages in everything.items()}
    first = gather()
    (tmp_path / "partial").write_bytes(line("row-1"))
    server.pages, server.asked = everything, []
    assert gather() == first
    assert {cursor for _, cursor in server.asked} == {None}


def test_the_state_on_the_disk_is_never_ahead_of_the_lines(
    tmp_path: Path, server: FakeServer, gather: Gather, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, int]] = []
    save = State.save

    def saved(self: State, path: Path) -> None:
        save(self, path)
        stored = load_state(path)
        assert stored is not None
        sizes.append((stored.partial_bytes, (tmp_path / "partial").stat().st_size))

    monkeypatch.setattr(State, "save", saved)
    server.pages = {"batch_1": [["row-1"], ["row-2"]], "batch_2": [["row-3"], [], ["row-4"]]}
    gather()
    assert len(sizes) >= 4
    assert all(known <= written for known, written in sizes)
