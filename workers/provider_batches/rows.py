"""The rows of one provider batch that its files do not answer: released, failed or refused."""

from collections.abc import Mapping, Sequence
from functools import partial
from uuid import UUID

from carpool.errors import PassingError, error_body
from db import provider_batches as steps
from db.database import Lane
from db.finish import Finisher
from db.provider_batches import Member, ProviderBatch
from workers.backends.protocol import Answer
from workers.provider_batches.batch_file import Contents
from workers.provider_batches.desk import Desk
from workers.provider_batches.provider import BatchFault
from workers.provider_batches.reading import Reading, Told

RELEASE_ROWS = 2000
"""How many rows one transaction hands back."""
REFUSED_STATUS = 400


class Rows:
    """Ends the claims of a provider batch; what is its own no more is left alone."""

    def __init__(self, desk: Desk, batch: ProviderBatch, lane: Lane) -> None:
        self._desk = desk
        self._batch = batch
        self._lane = lane
        self._finisher = Finisher(batch.id, batch.backend, desk.worker, desk.doorbell.notify)

    async def left(self) -> list[Member]:
        """Those that it owns still."""
        return await steps.members(self._lane, self._batch.id)

    def reading(self, members: Sequence[Member]) -> Reading:
        """A reading of its files that ends these."""
        desk, batch = self._desk, self._batch
        tier = desk.backend.tiers.get(batch.window, 1.0)
        return Reading(
            desk.database,
            desk.doorbell,
            self._finisher,
            batch,
            members,
            max_attempts=desk.settings.max_attempts,
            ledger=partial(desk.map.ledger, batch, tier=tier),
        )

    async def release(self, members: Sequence[Member], *, verbatim: bool = False) -> None:
        """Hand rows back unharmed: it counts as no attempt.

        ``verbatim``: not to be gathered for background responses again.
        """
        for begin in range(0, len(members), RELEASE_ROWS):
            chunk = members[begin : begin + RELEASE_ROWS]
            await steps.release(
                self._lane, self._desk.keeper, self._batch.id, chunk, verbatim=verbatim
            )

    async def tell(self, told: Sequence[Told]) -> int:
        """Store what is known of some rows; how many of them were answered by that."""
        if not told:
            return 0
        async with self.reading(await self.left()) as reading:
            for one in told:
                await reading.tell(one)
            await reading.store()
        return reading.count.answered

    async def fail(self, failure: PassingError) -> None:
        """Each row has failed an attempt."""
        await self.tell([Told(m.id, m.epoch, failure, whole=True) for m in await self.left()])

    async def refuse(self, faults: Mapping[Member, BatchFault]) -> None:
        """End rows that the provider will not take, each with its error."""
        told = []
        for member, fault in faults.items():
            body = error_body(
                fault.message or "The provider refused the request.",
                "invalid_request_error",
                param=fault.param,
                code=fault.code,
            )
            told.append(Told(member.id, member.epoch, Answer(status=REFUSED_STATUS, body=body)))
        await self.tell(told)

    async def leave_out(self, contents: Contents) -> None:
        """Return what does not fit into the file, and end what never will."""
        await self.release(contents.left)
        if contents.refused:
            await self.refuse(dict(contents.refused))

    async def judge(self, error: str, faults: Mapping[UUID, BatchFault]) -> None:
        """The provider takes none of the file: the named rows end, the others return.

        Where it names none, all of them have failed an attempt, or it would be sent for ever.
        """
        if not faults:
            await self.fail(PassingError(error))
            return
        members = await self.left()
        await self.refuse({m: faults[m.id] for m in members if m.id in faults})
        await self.release([member for member in members if member.id not in faults])
