"""What the numbers were measured on, and how busy it was with other things."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Self

import msgspec
import psutil

from cli.postgres import EmbeddedPostgres

_BUSY_WINDOW_SECONDS = 2.0


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A machine, before a run."""

    cores: int
    cpu: str
    memory_gib: float
    python: str
    postgres: str
    busy_percent_before: float
    """Of all cores together, by what others do."""
    load_average_before: float

    @classmethod
    def look(cls) -> Self:
        """Take two seconds to see how busy it is."""
        return cls(
            cores=psutil.cpu_count() or 1,
            cpu=_cpu_model(),
            memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
            python=platform.python_version(),
            postgres=_postgres_version(),
            busy_percent_before=psutil.cpu_percent(_BUSY_WINDOW_SECONDS),
            load_average_before=round(os.getloadavg()[0], 2),
        )

    def notes(self) -> tuple[str, ...]:
        """For beneath the table."""
        return (
            f"{self.cores} cores of {self.cpu}, {self.memory_gib:g} GiB; {self.postgres}, "
            f"fsync on; Python {self.python}",
            f"before the run: load average {self.load_average_before:g}, CPU "
            f"{self.busy_percent_before:g} % busy; after it: load average {os.getloadavg()[0]:.2f}",
        )


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _postgres_version() -> str:
    binary = EmbeddedPostgres(Path("unused")).command.argv[0]
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
    return said.stdout.strip()
