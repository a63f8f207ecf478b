"""What `carpool submit` tells while it works: bars on a terminal, else plain lines, on stderr."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TransferSpeedColumn,
)

from cli.bulk.faults import printable
from cli.bulk.pace import Counts, Pace, described

LINE_SECONDS = 5.0
"""Between two lines of progress, where there is no terminal."""

Sent = Callable[[int], None]
"""Takes how many bytes of an upload have been sent."""


class Teller(Protocol):
    """How a person, or a log, is told."""

    def say(self, text: str) -> None:
        """Tell something that stays."""

    def upload(self, name: str, total_bytes: int) -> AbstractContextManager[Sent]:
        """Show an upload for the length of the context."""

    def show(self, counts: Counts) -> None:
        """Show how far the work is."""


@contextmanager
def teller() -> Iterator[Teller]:
    """The one that suits where stderr leads."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield PlainLines()
        return
    with Bars(console) as bars:
        yield bars


class PlainLines:
    """One line for each thing, and for progress one at most every few seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pace = Pace()
        self._last: tuple[float, str] | None = None

    def say(self, text: str) -> None:
        print(f"carpool: {printable(text)}", file=sys.stderr, flush=True)

    @contextmanager
    def upload(self, name: str, total_bytes: int) -> Iterator[Sent]:
        yield lambda _: None
        self.say(f"uploaded {name} ({total_bytes:,} bytes)")

    def show(self, counts: Counts) -> None:
        now = self._clock()
        self._pace.note(now, counts.done)
        text = described(counts, self._pace)
        if self._last is not None:
            then, said = self._last
            if text == said or (now - then < LINE_SECONDS and counts.done < counts.total):
                return
        self._last = (now, text)
        self.say(text)


class Bars:
    """Bars that move in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._pace = Pace()
        self._uploads = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=console,
            transient=True,
        )
        self._work = Progress(
            BarColumn(), TextColumn("{task.description}", markup=False), console=console
        )

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, *_: object) -> None:
        self._work.stop()

    def say(self, text: str) -> None:
        self._console.print(f"carpool: {printable(text)}", markup=False, soft_wrap=True)

    @contextmanager
    def upload(self, name: str, total_bytes: int) -> Iterator[Sent]:
        self._work.stop()
        with self._uploads:
            task = self._uploads.add_task(f"uploading {name}", total=total_bytes)
            try:
                yield lambda sent: self._uploads.update(task, completed=sent)
            finally:
                self._uploads.remove_task(task)

    def show(self, counts: Counts) -> None:
        self._pace.note(time.monotonic(), counts.done)
        text = described(counts, self._pace)
        if not self._work.tasks:
            self._work.add_task(text, total=counts.total)
        self._work.start()
        self._work.update(self._work.task_ids[0], description=text, completed=counts.done)
