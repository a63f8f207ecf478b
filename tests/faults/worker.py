"""A worker that tests end as they like, beside a stack that has none of its own."""

import signal
import subprocess
from pathlib import Path

from tests.stack import CARPOOL, END_SECONDS, Stack, clean_environment

ENV = {
    "CARPOOL_LEASE_SECONDS": "5",
    "CARPOOL_HEALTH_SECONDS": "0.2",
    "CARPOOL_POLL_SECONDS": "0.3",
    "CARPOOL_DATABASE_TIMEOUT_SECONDS": "5",
    "CARPOOL_STREAM_HOLD_SECONDS": "30",
}
"""A lease that a busy machine does not use up, and a stream that says who answers, however late."""


class Worker:
    """The one worker of a backend, started anew when it is ended."""

    def __init__(
        self, stack: Stack, config: Path, backend: str, *, seat: str | None = None
    ) -> None:
        self._command = [*CARPOOL, "worker", "--backend", backend, "--config", str(config)]
        self._environment = (
            clean_environment()
            | ENV
            | {
                "CARPOOL_HEARTBEAT_SECONDS": "0.2",
                "CARPOOL_DATABASE_URL": stack.database_url,
                "CARPOOL_REDIS_URL": stack.redis_url,
                "CARPOOL_DATA_DIR": str(stack.directory),
                "CARPOOL_SEAT": f"test:{seat or backend}",
            }
        )
        self.log = stack.directory / f"{seat or backend}.log"
        self._process = self._start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        self._process.send_signal(number)
        self._process.wait(END_SECONDS)

    def replace(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it and start another in its seat."""
        self.end(number)
        self._process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as file:
            return subprocess.Popen(
                self._command, env=self._environment, stdout=file, stderr=subprocess.STDOUT
            )
