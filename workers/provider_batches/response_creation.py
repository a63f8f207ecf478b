"""The rows of a provider batch become background responses, some at a time, each noted at once."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from typing import Self
from uuid import UUID

import msgspec
import structlog

from carpool.errors import PassingError
from carpool.states import ENDPOINTS, ServiceClass
from db import provider_batches as steps
from db import provider_responses as responses
from db.database import Lane
from db.group import GroupCommit
from db.provider_batches import LostError, Member, ProviderBatch
from db.provider_responses import Note
from workers.backends import openai_body
from workers.backends.protocol import Call
from workers.provider_batches.batch_file import custom_id
from workers.provider_batches.desk import Desk
from workers.provider_batches.provider import Refused
from workers.provider_batches.responses_body import Request, UntranslatableError, request
from workers.provider_batches.rows import Rows

CHUNK = 64
"""Rows whose bodies are held at once."""
NOTE_PATIENCE_SECONDS = 3600.0
"""How long a note waits for Postgres: its response is paid already."""
log = structlog.get_logger()


class Creation:
    """Creates what is not created yet; ``async with`` begins and ends its notes."""

    def __init__(self, desk: Desk, batch: ProviderBatch, lane: Lane, rows: Rows) -> None:
        self.error: PassingError | None = None
        """Why the last one that failed did."""
        self.limited = False
        """Whether rows are left because the provider's limits are reached."""
        self.surplus: list[str] = []
        """Those that were created though another keeper's was there, and are not let go of yet."""
        self._stopped = False
        self._desk = desk
        self._batch = batch
        self._lane = lane
        self._rows = rows
        self._notes: GroupCommit[Note, bool] = GroupCommit(
            desk.database,
            responses.note,
            limit=CHUNK,
            lanes=1,
            patience_seconds=NOTE_PATIENCE_SECONDS,
        )

    async def __aenter__(self) -> Self:
        self._notes.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._notes.close()

    def stop(self) -> None:
        """Begin no further chunk."""
        self._stopped = True

    async def create(self, still_keep: Callable[[], Awaitable[None]]) -> list[PassingError]:
        """One after the other chunk of those that wait; why some, or all from one on, are not.

        ``still_keep`` is asked before each, and raises LostError where another keeper has it.
        """
        failed: dict[UUID, PassingError] = {}
        self.limited = False
        while not self._stopped and (
            members := await responses.unsent(self._lane, self._batch.id, but=failed, limit=CHUNK)
        ):
            try:
                await still_keep()
            except LostError:
                await self._withdraw()
                raise
            ready = await self._translated(members)
            if not ready:
                continue
            granted = await self._desk.responses.admit(self._batch.upstream, len(ready))
            self.limited = granted == 0
            if self.limited:
                break
            sent = dict(islice(ready.items(), granted))
            errors = await self._create(sent)
            failed |= errors
            if errors:
                self.error = next(reversed(errors.values()))
            if errors and len(errors) == len(sent):  # the provider fails, and not one of these
                break
        return [*failed.values(), *await self._withdraw()]

    async def _translated(self, members: Sequence[Member]) -> dict[Member, Request]:
        """Those of the first that have an equal as a response; the others are handed back."""
        bodies = dict(await steps.bodies(self._lane, [member.id for member in members]))
        read = max((n for n, member in enumerate(members) if member.id in bodies), default=0) + 1
        ready: dict[Member, Request] = {}
        verbatim = []
        for member in members[:read]:
            try:
                ready[member] = self._request(member, bodies.get(member.id, b""))
            except UntranslatableError:
                verbatim.append(member)
        await self._hand_back(verbatim)
        return ready

    async def _create(self, sent: Mapping[Member, Request]) -> dict[UUID, PassingError]:
        """Create them; why some have no response."""
        errors: dict[UUID, PassingError] = {}
        verbatim = []
        sending = [self._send(member, made) for member, made in sent.items()]
        outcomes = await asyncio.gather(*sending, return_exceptions=True)
        for member, outcome in zip(sent, outcomes, strict=True):
            match outcome:
                case None:
                    pass
                case Refused():
                    # Of a body that no client wrote: as the client wrote it, it may be taken, or
                    # be refused in words that name its fields.
                    verbatim.append(member)
                case PassingError():
                    errors[member.id] = outcome
                case _:
                    raise outcome
        await self._hand_back(verbatim)
        return errors

    async def _hand_back(self, verbatim: Sequence[Member]) -> None:
        """Leave rows to ways on which they go as they are."""
        if verbatim:
            log.info("rows_verbatim", provider_batch=str(self._batch.id), rows=len(verbatim))
            await self._rows.release(verbatim, verbatim=True)

    def _request(self, member: Member, body: bytes) -> Request:
        batch = self._batch
        call = Call(
            id=member.id,
            endpoint=ENDPOINTS[batch.endpoint],
            model=batch.model,
            upstream=batch.upstream,
            body=body,
            stream=False,
            service_class=ServiceClass.BATCH,
            team_id=member.team_id,
            prefix_key=member.prefix_key,
        )
        try:
            chat = openai_body.outgoing(call, group=self._desk.backend.groups_prompts)
        except msgspec.DecodeError as error:
            raise UntranslatableError(str(error)) from None
        return request(chat.body, window=batch.window, name=custom_id(member))

    async def _send(self, member: Member, made: Request) -> None:
        """Create a response and note it; where another keeper's is there, it is one too many."""
        desk = self._desk
        async with desk.responses.doubt:
            created = await desk.responses.create(self._batch.upstream, made.body)
            note = Note(self._batch.id, member.id, created.id, made.kept)
            if not await self._notes.put(note):
                self.surplus.append(created.id)

    async def _withdraw(self) -> list[PassingError]:
        """Let go of those that are one too many; why some are there still."""
        errors = []
        upstream, let_go = self._batch.upstream, self._desk.responses.let_go
        for response in tuple(self.surplus):
            try:
                await let_go(upstream, response, over=False, kept=False)
            except PassingError as error:
                errors.append(error)
                continue
            self.surplus.remove(response)
            log.warning("response_withdrawn", provider_batch=str(self._batch.id))
        return errors
