"""A stack whose answers do not come before a test wants them: what is in flight stays so."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.stack import Stack, stack_in_temporary_directory

HELD_MILLISECONDS, QUICK_MILLISECONDS = 600_000, 0
CONFIG = """
[backends.simulated]
kind = "simulated"
first_token_milliseconds = {first_token_milliseconds}
token_milliseconds = 0
"""


class Pace:
    """Of the workers that start from now on."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self._write(HELD_MILLISECONDS)

    def quicken(self) -> None:
        """They answer at once, where their first answers would not come within the test."""
        self._write(QUICK_MILLISECONDS)

    def _write(self, milliseconds: int) -> None:
        self.config.write_text(CONFIG.format(first_token_milliseconds=milliseconds))


@contextmanager
def held_stack(
    env: Mapping[str, str] | None = None, *, options: tuple[str, ...] = ()
) -> Iterator[tuple[Stack, Pace]]:
    """A stack whose first workers answer nothing but what says itself how long it takes."""
    directory = Path(tempfile.mkdtemp(prefix="carpool-config-"))
    try:
        pace = Pace(directory / "carpool.toml")
        with stack_in_temporary_directory(
            env, options=("--config", str(pace.config), *options)
        ) as stack:
            yield stack, pace
    finally:
        shutil.rmtree(directory)
