"""Load by `wrk`, and what came of it."""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import msgspec

from tests.benchmarks.chat import STREAM_END, Target, http_request

_SCRIPT = Path(__file__).with_name("chat.lua")
_TIMEOUT_SECONDS = 60
_NUMBERS = 10**12


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """One round: what was answered by a 2xx, refused by another status, or broke."""

    answered: int
    refused: int
    broken: int
    whole: int
    """Streams that were read to their `[DONE]`; 0 where none were asked for."""
    seconds: float
    median_seconds: float

    @property
    def per_second(self) -> float:
        return self.answered / self.seconds

    @property
    def failures(self) -> int:
        return self.refused + self.broken


def load(target: Target, *, connections: int, seconds: int, stream: bool = False) -> Load:
    """Keep ``connections`` busy for ``seconds``, each with one request after the other."""
    with tempfile.NamedTemporaryFile("w", suffix=".http", newline="") as file:
        file.write(http_request(target, stream=stream))
        file.flush()
        # Microseconds: no two rounds share a number, for none sends a million requests a second.
        first = time.time_ns() // 1000 % _NUMBERS
        result = subprocess.run(
            [
                wrk(), "-t1", f"-c{connections}", f"-d{seconds}s",
                "--timeout", f"{_TIMEOUT_SECONDS}s", "-s", str(_SCRIPT), target.base_url,
                "--", file.name, str(first), *((STREAM_END,) if stream else ()),
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=seconds + _TIMEOUT_SECONDS,
        )  # fmt: skip
    return msgspec.json.decode(result.stdout.splitlines()[-1], type=Load)


def wrk() -> str:
    """The program's path; as root it is installed where it is missing."""
    found = shutil.which("wrk")
    if found is None and os.geteuid() == 0:
        subprocess.run(["apt-get", "install", "-y", "wrk"], stdout=subprocess.DEVNULL, check=False)
        found = shutil.which("wrk")
    if found is None:
        raise SystemExit("The benchmarks need wrk: apt-get install wrk")
    return found
