"""One provider batch on its way as a file: uploaded, submitted, watched, read back.

Each step looks before it does and writes after, so that it may be cut off anywhere and begun again
by any process: what is at the provider carries our id, and is found there.
"""

import tempfile
from collections.abc import AsyncGenerator
from dataclasses import replace
from functools import partial
from uuid import UUID

import structlog

from carpool.errors import PassingError, error_body
from carpool.lines import Line
from carpool.states import ENDPOINTS, ProviderBatchState
from db import provider_batches as steps
from db.provider_batches import NO_ROOM, LostError, ProviderBatch
from workers.provider_batches.batch_file import Limits, parse_custom_id, write
from workers.provider_batches.desk import Desk
from workers.provider_batches.keeping import ERROR_LENGTH, Keeping
from workers.provider_batches.provider import BatchFault, Refused, Seen
from workers.provider_batches.reading import Reading, RubbishError, Told, missing
from workers.provider_batches.rows import REFUSED_STATUS
from workers.provider_batches.token_limit import stated, token_limit

READINGS = 3
"""How often files with unreadable lines are read before what they do not tell counts as missing."""
RUBBISH_READINGS = 20
"""The same of a file of which no line can be read."""
LOOKS_AT_NOTHING = 5
"""How often in a row the provider must say that it knows nothing of a batch, to be believed."""
NOT_OVER = ("validating", "in_progress")
log = structlog.get_logger()


class Keeper(Keeping):
    """Moves a provider batch on that goes by the Batch API."""

    def __init__(self, desk: Desk, batch: ProviderBatch, *, fresh: bool) -> None:
        """``fresh``: it was gathered just now, so that nothing of it can be at the provider."""
        super().__init__(desk, batch, doubtful=not fresh)
        self._readings = 0
        self._looked_at_nothing = 0

    async def _step(self) -> float | None:
        match self.batch.state:
            case ProviderBatchState.GATHERED:
                async with self._desk.files:
                    return await self._upload()
            case ProviderBatchState.UPLOADED:
                return await self._submit()
            case _:
                return await self._watch()

    async def _upload(self) -> float | None:
        members = await self._rows.left()
        if not members:
            return await self._end(None)
        with tempfile.TemporaryFile() as file:
            async with self._desk.room:
                contents = await write(
                    file,
                    self.batch,
                    members,
                    partial(steps.bodies, self._lane),
                    limits=await self._limits(),
                    most=self._most,
                    group=self._desk.backend.groups_prompts,
                )
                await self._rows.leave_out(contents)
                if not contents.lines:
                    return await self._end(NO_ROOM if contents.left else None)
                self.batch = await steps.measured(
                    self._lane,
                    self._desk.keeper,
                    self.batch,
                    lines=contents.lines,
                    size=contents.bytes,
                    tokens=contents.tokens,
                )
            found = await self._uploaded(contents.bytes)
            if found is None:
                file.seek(0)
                found = await self._desk.provider.upload(self.batch.id, file)
        self.batch = await steps.uploaded(self._lane, self._desk.keeper, self.batch, found)
        log.info("provider_file_uploaded", provider_batch=str(self.batch.id), file=found)
        return 0.0

    async def _uploaded(self, size: int) -> str | None:
        """An earlier upload of the same file; another, of what it held before, is deleted."""
        found = None
        if self._doubtful:
            for upload in await self._desk.provider.uploads(self.batch.id):
                if upload.bytes == size:
                    found = upload.id
                else:
                    await self._desk.provider.delete_file(upload.id)
        return found

    async def _submit(self) -> float | None:
        batch = self.batch
        assert batch.input_file is not None
        created = await self._desk.provider.created(batch) if self._doubtful else []
        if not created:
            left = await steps.count_members(self._lane, batch.id)
            if left < batch.lines:
                self.batch = await steps.recalled(self._lane, self._desk.keeper, batch)
                await self._desk.provider.delete_file(batch.input_file)
                return 0.0
            await self._still_keep()
            try:
                await self._unbroken(self._create())
            except Refused as error:
                return await self._give_up(error)
        else:
            await self._note(created[0])
        return self._desk.backend.poll_seconds

    async def _create(self) -> None:
        batch = self.batch
        await self._note(await self._desk.provider.create(batch, ENDPOINTS[batch.endpoint]))

    async def _note(self, mine: Seen) -> None:
        """Write what it is at the provider; where another keeper has done so, take ours back."""
        batch = self.batch
        try:
            self.batch = await steps.submitted(
                self._lane, self._desk.keeper, batch, mine.id, mine.status
            )
        except LostError:
            await self._withdraw(mine)
            raise
        log.info("provider_batch_submitted", provider_batch=str(batch.id), provider_id=mine.id)

    async def _cancel_others(self) -> None:
        """Another keeper, stopped in mid-step, may have created a batch beside this one's."""
        for other in await self._desk.provider.created(self.batch):
            if other.id != self.batch.provider_id and not other.over:
                await self._desk.provider.cancel(other.id)

    async def _withdraw(self, mine: Seen) -> None:
        """Cancel a batch that was created in vain: by another keeper's there is one already."""
        now = await steps.find(self._lane, self.batch.id)
        if now is not None and now.provider_id not in (None, mine.id):
            await self._desk.provider.cancel(mine.id)

    async def _watch(self) -> float | None:
        batch = self.batch
        assert batch.provider_id is not None
        if self._doubtful:
            await self._cancel_others()
            self._doubtful = False
        try:
            seen = await self._desk.provider.get(batch.provider_id)
        except Refused as error:
            self._looked_at_nothing += 1
            if self._looked_at_nothing < LOOKS_AT_NOTHING:
                raise
            return await self._give_up(error)
        self._looked_at_nothing = 0
        files = (seen.output_file_id, seen.error_file_id)
        if (seen.status, *files) != (batch.provider_status, batch.output_file, batch.error_file):
            self.batch = await steps.watched(
                self._lane,
                self._desk.keeper,
                batch,
                status=seen.status,
                output_file=seen.output_file_id,
                error_file=seen.error_file_id,
            )
        if seen.over:
            async with self._desk.files:
                return await self._read(seen)
        if seen.status in NOT_OVER and await self._is_in_vain():
            await self._desk.provider.cancel(batch.provider_id)
        return self._desk.backend.poll_seconds

    async def _is_in_vain(self) -> bool:
        """Whether nobody needs it any more, or a row is late that another backend can still help.

        A file is cancelled as a whole: the rows that go with that one are late soon (see `Bucket`).
        """
        if not await steps.any_member(self._lane, self.batch.id):
            return True
        return self._may_be_late() and any(map(self._is_late, await self._rows.left()))

    async def _read(self, seen: Seen) -> float | None:
        if seen.status == "failed":
            return await self._end(await self._refused(seen))
        async with self._rows.reading(await self._rows.left()) as reading:
            for file in (seen.output_file_id, seen.error_file_id):
                if file is not None:
                    await self._read_file(reading, file)
            left = await self._rows.left()
            if left and reading.count.unreadable and self._readings < READINGS - 1:
                self._readings += 1
                raise PassingError("The provider's files cannot be read to their end.")
            for member in left:
                await reading.tell(Told(member.id, member.epoch, missing(seen.status)))
            await reading.store()
        count = reading.count
        log.info(
            "provider_batch_read",
            provider_batch=str(self.batch.id),
            status=seen.status,
            answered=count.answered,
            returned=count.returned,
            missing=len(left),
            dropped=count.dropped,
            unreadable=count.unreadable,
        )
        return await self._end(None)

    async def _read_file(self, reading: Reading, file: str) -> None:
        try:
            await reading.read(self._lines(file))
        except RubbishError:
            self._readings += 1
            if self._readings < RUBBISH_READINGS:
                raise

    async def _lines(self, file: str) -> AsyncGenerator[Line, None]:
        try:
            async for line in self._desk.provider.lines(file):
                yield line
        except Refused as error:
            raise PassingError(error.summary, detail=str(error)) from error

    async def _refused(self, seen: Seen) -> str:
        """What became of the rows of a file that the provider took nothing of, in a word."""
        for fault in seen.faults:
            if fault.code == NO_ROOM:
                return await self._kept_out(fault)
        reason = "; ".join(f"{fault.code}: {fault.message}" for fault in seen.faults)
        error = f"The provider refused the batch: {reason or 'it gives no reason'}"
        faults = {fault.line: fault for fault in seen.faults if fault.line is not None}
        await self._rows.judge(error[:ERROR_LENGTH], await self._named(faults))
        return error

    async def _kept_out(self, fault: BatchFault) -> str:
        """The rows go later, in less company; one for which there is no room alone fails.

        One far below the limit waits, too: others use the provider's account.
        """
        error = f"{NO_ROOM}: {fault.message or ''}"
        members, limit, tokens = await self._rows.left(), stated(error), self.batch.tokens
        alone = self.batch.lines == 1 and not await steps.open_tokens(self._lane, self.batch)
        if not alone or (limit is not None and tokens * 2 <= limit):
            await self._rows.release(members)
        elif limit is not None and tokens > limit:
            await self._rows.refuse(dict.fromkeys(members, fault))
        else:
            # The estimate leaves it open, so that the attempts decide.
            message = fault.message or "The provider's limit of enqueued tokens is reached."
            body = error_body(message, "invalid_request_error", code=NO_ROOM)
            await self._rows.fail(PassingError(error, status=REFUSED_STATUS, body=body))
        return error

    async def _named(self, faults: dict[int, BatchFault]) -> dict[UUID, BatchFault]:
        """By the requests: the faults by their lines, as the file that was sent has them."""
        found: dict[UUID, BatchFault] = {}
        if faults and self.batch.input_file is not None:
            async for line in self._lines(self.batch.input_file):
                if line.number in faults:
                    text = line.text.partition(b'"custom_id":"')[2].partition(b'"')[0]
                    name = parse_custom_id(text.decode())
                    if name is not None:
                        found[name[0]] = faults[line.number]
        return found

    async def _give_up(self, error: Refused) -> float | None:
        """The provider wants nothing of it; or another keeper has taken its file away."""
        await self._still_keep()
        await self._rows.fail(PassingError(str(error), status=error.status, body=error.body))
        return await self._end(str(error))

    @property
    def _most(self) -> Limits:
        backend = self._desk.backend
        return Limits(
            lines=backend.max_lines, bytes=backend.max_bytes, tokens=backend.max_enqueued_tokens
        )

    async def _limits(self) -> Limits:
        """What there is room for now, beside the other open batches."""
        backend, batch = self._desk.backend, self.batch
        limit = await token_limit(self._lane, batch.backend, backend, batch.upstream)
        if limit is None:
            return self._most
        taken = await steps.open_tokens(self._lane, batch)
        return replace(self._most, tokens=max(limit - taken, 0), alone=not taken)
