"""What was asked for: how rows become requests, and requests batches."""

from collections.abc import Iterable

import msgspec

from carpool.wire import MAX_METADATA_PAIRS
from cli.bulk.faults import BadInput

SUBMISSION_KEY = "carpool_submission"
PART_KEY = "carpool_part"
OWN_METADATA = (SUBMISSION_KEY, PART_KEY)
"""Kept in each batch's metadata, to find it again."""


class Options(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """None: not given. Once a submission has begun they are kept in its state."""

    model: str | None = None
    endpoint: str | None = None
    window: str | None = None
    template: str | None = None
    system: str | None = None
    max_tokens: int | None = None
    column: str | None = None
    id_column: str | None = None
    priority: int | None = None
    metadata: dict[str, str] | None = None

    def names(self) -> list[str]:
        """Those that are given."""
        return [name for name in self.__struct_fields__ if getattr(self, name) is not None]


def resumed(given: Options, begun: Options) -> Options:
    """The options of a submission that has begun; raises BadInput where another one is given."""
    for name in given.names():
        before = getattr(begun, name)
        if getattr(given, name) != before:
            was = "without it" if before is None else f"with {before!r}"
            raise BadInput(f"{flag(name)}: the submission was begun {was}, and goes on as it is")
    return begun


def flag(name: str) -> str:
    """As it is written on the command line."""
    return f"--{name.replace('_', '-')}"


def parse_metadata(pairs: Iterable[str]) -> dict[str, str] | None:
    """Of ``key=value``; None where there is none; raises BadInput."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not key or not sign:
            raise BadInput(f"--metadata: '{pair}' is not key=value")
        if key in found or key in OWN_METADATA:
            raise BadInput(f"--metadata: '{key}' is taken")
        found[key] = value
    most = MAX_METADATA_PAIRS - len(OWN_METADATA)
    if len(found) > most:
        raise BadInput(f"--metadata: at most {most} pairs")
    return found or None
