"""A row is late for its provider batch where another backend answers late requests of its class."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from carpool.ids import new_id
from carpool.states import ServiceClass
from db.provider_batches import Member
from workers.provider_batches.keeping import Keeping

FLEX, BATCH = ServiceClass.FLEX, ServiceClass.BATCH


class Keeper(Keeping):
    """One that says what is late."""

    async def _step(self) -> float | None:
        return None

    def late(self, service_class: ServiceClass, seconds: float) -> bool:
        deadline = datetime.now(UTC) + timedelta(seconds=seconds)
        return self._is_late(Member(new_id(), 1, 0, 1, 0, deadline, service_class))

    @property
    def looks(self) -> bool:
        return self._may_be_late()


def keeper(*helped: ServiceClass, seconds: float = 600) -> Keeper:
    """Of a provider batch whose first row is due in so long; others answer late rows of classes."""
    fake: Any = SimpleNamespace(
        database=SimpleNamespace(lane=lambda: None),
        backend=SimpleNamespace(live_seconds=900, tiers={}),
        map=SimpleNamespace(hurries_elsewhere=lambda model, service_class: service_class in helped),
        doorbell=SimpleNamespace(notify=None),
        worker="worker",
    )
    deadline = datetime.now(UTC) + timedelta(seconds=seconds)
    batch: Any = SimpleNamespace(id=new_id(), backend="patient", model="m", deadline=deadline)
    return Keeper(fake, batch, doubtful=False)


@pytest.mark.parametrize("helped", [(), (FLEX,), (BATCH,), (FLEX, BATCH)])
def test_only_what_others_would_answer_is_taken_back(helped: tuple[ServiceClass, ...]) -> None:
    """What only the provider may answer is not cancelled for its being late."""
    mine = keeper(*helped)
    assert mine.looks == bool(helped)
    for service_class in (FLEX, BATCH):
        assert mine.late(service_class, 600) == (service_class in helped)
        assert not mine.late(service_class, 1000)
        assert not mine.late(service_class, -1)


def test_rows_are_looked_at_once_the_first_may_be_late() -> None:
    assert not keeper(FLEX, seconds=1000).looks
