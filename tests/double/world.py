"""All that one double knows; it ends with the process."""

from tests.double.batches import Batches
from tests.double.clock import Clock
from tests.double.faults import Faults
from tests.double.files import Files
from tests.double.limits import Limits
from tests.double.live import Live
from tests.double.prefixes import Prefixes
from tests.double.record import Record, Seen
from tests.double.responses import Responses
from tests.double.settings import Settings


class World:
    """The parts, and the one way to the time: `now`, which does first what has fallen due."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.clock = Clock()
        self.record = Record()
        self.limits = Limits(self.clock)
        self.live = Live(self)
        self.files = Files(self)
        self.batches = Batches(self)
        self.responses = Responses(self)
        self.reset()

    def reset(self) -> None:
        """As at the start, but for the time that the clock shows."""
        self.settings = Settings()
        self.faults = Faults()
        self.prefixes = Prefixes()
        self.limits.refill()
        self.files.reset()
        self.batches.reset()
        self.responses.reset()
        self.record.forget()
        self.record.release()
        self.clock.auto(0)

    def now(self) -> float:
        now = self.clock.now()
        self.batches.turn(now)
        self.responses.turn(now)
        return now

    def seen(self) -> Seen:
        self.now()
        return Seen(
            calls=self.record.calls,
            batches=self.batches.seen(),
            responses=self.responses.seen(),
            lines=dict(self.record.lines),
            held=self.record.held,
            most_open=self.responses.most_open,
        )
