"""What is wrong with an input file, told by its lines."""

from pathlib import Path

from carpool.errors import CarpoolError, ConfigurationError

MAX_FAULTS = 20
"""Different ones that are told; a fault that many lines share is told once, and counted."""


class BadInput(ConfigurationError):
    """An input file, or what was said about it, cannot be submitted."""


class CannotGoOn(CarpoolError):
    """A Carpool cannot be reached, or answers what nobody can go on with."""


class Faults:
    """Gathers the faults of a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, tuple[int | None, int]] = {}
        """By message: the first line that has it, and how many more do."""

    def add(self, line: int | None, message: str) -> None:
        """Note one; raises BadInput, with all, when there are too many."""
        if message in self._found:
            first, more = self._found[message]
            self._found[message] = (first, more + 1)
            return
        self._found[message] = (line, 0)
        if len(self._found) >= MAX_FAULTS:
            self.check()

    def check(self) -> None:
        """Raise BadInput where there are any."""
        if self._found:
            told = "\n".join(_told(message, *where) for message, where in self._found.items())
            raise BadInput(f"{printable(str(self._path))} cannot be submitted:\n{told}")


def printable(text: str) -> str:
    """The text without anything that a terminal takes for a command; newlines stay."""
    return "".join(
        character if character.isprintable() or character == "\n" else repr(character)[1:-1]
        for character in text
    )


def _told(message: str, line: int | None, more: int) -> str:
    where = "" if line is None else f"line {line:,}: "
    also = "" if not more else f" (and {more:,} more lines)" if more > 1 else " (and 1 more line)"
    return f"  {where}{printable(message)}{also}"
