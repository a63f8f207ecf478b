"""A submission: its parts are uploaded, become batches, and their results are gathered.

Each step is noted in the state as soon as the server has done it. A step that may have been done
without its note (a kill, a lost answer) is first looked for on the server.
"""

import asyncio
from pathlib import Path
from typing import Any, cast

from openai.types import Batch

from cli.bulk.faults import BadInput, CannotGoOn
from cli.bulk.options import PART_KEY, SUBMISSION_KEY, Options
from cli.bulk.pace import Counts
from cli.bulk.partial import Partial
from cli.bulk.plan import PartFiles
from cli.bulk.progress import Teller
from cli.bulk.server import Server
from cli.bulk.source import Source
from cli.bulk.state import PartState, State

END_STATUSES = frozenset({"completed", "failed", "cancelled", "expired"})
WAIT_SECONDS = 2.0
"""Of a long-poll. A change before it began is seen when it ends: one begins when nothing moves."""
PAUSE_SECONDS = 0.5
"""Between two polls of one batch."""
LATE_LOOKS = 4
"""For lines that a batch has not given when it ends."""


class Submission:
    """One at work; see :func:`send` and :func:`gather`."""

    def __init__(
        self, *, server: Server, told: Teller, source: Source, state: State, state_path: Path
    ) -> None:
        self.state = state
        self._server = server
        self._told = told
        self._source = source
        self._state_path = state_path
        self._batches: dict[int, Batch] = {}
        """By part, as they were seen last."""

    async def send(self, *, resumed: bool) -> None:
        """Make a batch of every part that is none yet."""
        if resumed:
            await self._greet()
        planned = tuple(part.part for part in self.state.parts)
        files = PartFiles(self._source, planned)
        for part in self.state.parts:
            try:
                if part.batch_id is None:
                    await self._send(part, files, resumed)
            finally:
                self._part_path(part).unlink(missing_ok=True)

    async def gather(self, partial: Partial) -> list[Batch]:
        """Follow all batches to their ends, while their lines go to OUT.partial; by part."""
        if partial.size() < self.state.partial_bytes:
            self.state.forget_results()
        partial.cut(self.state.partial_bytes)
        tasks = [asyncio.create_task(self._follow(part, partial)) for part in self.state.parts]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _greet(self) -> None:
        """Make sure that this is the server where the submission was begun."""
        begun = next((part for part in self.state.parts if part.batch_id), None)
        if begun is not None and begun.batch_id is not None:
            try:
                await self._server.batch(begun.batch_id)
            except CannotGoOn as error:
                raise CannotGoOn(
                    f"{error} (asked for {begun.batch_id}, begun at {self.state.base_url})"
                ) from error

    async def _send(self, part: PartState, files: PartFiles, resumed: bool) -> None:
        try:
            if part.file_id is None:
                files.write(part.part, self._part_path(part))
                part.file_id = await self._upload(part, resumed)
                self._save()
            part.batch_id = await self._create(part, part.file_id, resumed)
            self._save()
        except BadInput:
            await self._take_back(part)
            raise
        self._told.say(f"{self._name(part)} is {part.batch_id} ({part.requests:,} requests)")

    async def _take_back(self, part: PartState) -> None:
        """Leave no file that no batch will ever read."""
        file_id, part.file_id = part.file_id, None
        if file_id is not None:
            self._save()
            await self._server.delete_file(file_id)

    async def _upload(self, part: PartState, resumed: bool) -> str:
        path, name = self._part_path(part), self.state.file_name(part)
        unsure = resumed

        async def upload() -> str:
            nonlocal unsure
            if unsure and (found := await self._server.find_file(name, part.bytes)):
                return found
            unsure = True
            with self._told.upload(self._name(part), part.bytes) as sent:
                return await self._server.send(path, name, sent, kept_seconds=None)

        return await self._server.ask(upload)

    async def _create(self, part: PartState, file_id: str, resumed: bool) -> str:
        own = {SUBMISSION_KEY: self.state.submission, PART_KEY: str(part.number)}
        options = self.state.options
        unsure = resumed

        async def create() -> str:
            nonlocal unsure
            if unsure and (found := await self._server.find_batch(own, file_id)):
                return found
            unsure = True
            made = await self._server.client.batches.create(
                input_file_id=file_id,
                endpoint=cast(Any, options.endpoint),
                completion_window=cast(Any, options.window),
                metadata={**(options.metadata or {}), **own},
                extra_body=priority(options),
                extra_headers={"Idempotency-Key": f"{self.state.submission}-{part.number}"},
            )
            return made.id

        return await self._server.ask(create)

    async def _follow(self, part: PartState, partial: Partial) -> Batch:
        """Gather a batch's lines until it has ended and all have come."""
        assert part.batch_id is not None
        batch = await self._server.batch(part.batch_id)
        while True:
            changed = batch != self._batches.get(part.number)
            self._batches[part.number] = batch
            ended = batch.status in END_STATUSES
            if (ended or _done(batch) > part.lines) and not part.whole:
                await self._fetch(part, part.batch_id, partial)
            self._show()
            if ended:
                await self._complete(part, batch, partial)
                return batch
            await asyncio.sleep(PAUSE_SECONDS)
            lags = changed or _done(batch) > part.lines
            batch = await self._server.batch(part.batch_id, 0 if lags else WAIT_SECONDS)

    async def _fetch(self, part: PartState, batch_id: str, partial: Partial) -> None:
        """All lines that are there: first to the disk, then the cursor that stands for them."""
        more = True
        while more:
            page = await self._server.results(batch_id, part.cursor)
            if page.lines:
                self.state.partial_bytes = partial.append(page.lines)
                part.cursor = page.cursor
                part.lines += page.lines.count(b"\n")
                self._save()
            more = page.more

    async def _complete(self, part: PartState, batch: Batch, partial: Partial) -> None:
        """See to what an ended batch has not given: the newest lines come a moment later, and those
        that it never began with are in its files alone."""
        for _ in range(LATE_LOOKS):
            if part.whole or part.lines >= part.requests or batch.status == "failed":
                break
            await asyncio.sleep(PAUSE_SECONDS)
            await self._fetch(part, batch.id, partial)
        else:
            await self._take_files(batch, partial)
        part.whole = True
        self._save()

    async def _take_files(self, batch: Batch, partial: Partial) -> None:
        """Add all lines of a batch's files; of those that are there twice, the last one counts."""
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id is None:
                continue
            rest = b""
            async for chunk in self._server.chunks(file_id):
                lines, newline, rest = (rest + chunk).rpartition(b"\n")
                self.state.partial_bytes = partial.append(lines + newline)

    def _show(self) -> None:
        seen = [b.request_counts for b in self._batches.values() if b.request_counts]
        self._told.show(
            Counts(
                total=sum(part.requests for part in self.state.parts),
                done=sum(map(_done, self._batches.values())),
                failed=sum(counts.failed for counts in seen),
            )
        )

    def _part_path(self, part: PartState) -> Path:
        """Where the part lies until it is uploaded."""
        return self._state_path.with_suffix(f".part-{part.number}")

    def _name(self, part: PartState) -> str:
        return f"part {part.number} of {len(self.state.parts)}"

    def _save(self) -> None:
        self.state.save(self._state_path)


def _done(batch: Batch) -> int:
    counts = batch.request_counts
    return 0 if counts is None else counts.completed + counts.failed


def priority(options: Options) -> dict[str, object]:
    """Carpool's own field of a batch's creation, where it is asked for."""
    return {} if options.priority is None else {"priority": options.priority}
