"""How much memory the processes below one take while something runs."""

import threading
from types import TracebackType

import psutil

STEP_SECONDS = 0.1
MEGABYTE = 1e6


class Memory:
    """Samples, for the length of its context, what each process has to itself.

    Shared pages (Postgres's buffers, say) are not counted; processes that come and go (Postgres's
    backends) are left out, for of them there is nothing to compare.
    """

    def __init__(self, root: psutil.Process) -> None:
        self._root = root
        self._before: dict[psutil.Process, int] = {}
        self._most: dict[psutil.Process, int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_ended)

    def __enter__(self) -> "Memory":
        self._before = self._sample()
        self._most = dict(self._before)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def grown(self) -> dict[str, float]:
        """By process, how many megabytes it had more at its most than before."""
        return {
            f"{_name(process)} ({process.pid})": (self._most[process] - before) / MEGABYTE
            for process, before in self._before.items()
        }

    def _sample_until_ended(self) -> None:
        while not self._ended.wait(STEP_SECONDS):
            for process, size in self._sample().items():
                self._most[process] = max(size, self._most.get(process, 0))

    def _sample(self) -> dict[psutil.Process, int]:
        found = {}
        for process in (self._root, *self._root.children(recursive=True)):
            try:
                memory = process.memory_info()
            except psutil.NoSuchProcess:
                continue
            found[process] = memory.rss - memory.shared
        return found


def _name(process: psutil.Process) -> str:
    try:
        words = process.cmdline()
    except psutil.NoSuchProcess:
        return "ended"
    known = ("api", "jobs", "worker", "up")
    return next((word for word in words if word in known), process.name())
