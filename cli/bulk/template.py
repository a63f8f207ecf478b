"""A prompt with gaps: ``Translate: {text}``."""

import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from cli.bulk.faults import BadInput


class MissingField(Exception):
    """A row lacks a field that its prompt is made of; names it."""


@dataclass(frozen=True, slots=True)
class Template:
    """Pieces of text, each before the field that follows it; None after the last."""

    pieces: tuple[tuple[str, str | None], ...]

    def fill(self, fields: Mapping[str, Any]) -> str:
        """The prompt of a row; raises MissingField."""
        return "".join(
            piece if name is None else piece + text_of(fields, name) for piece, name in self.pieces
        )


def parse_template(text: str) -> Template:
    """``{name}`` is a field, ``{{`` and ``}}`` are braces; raises BadInput."""
    try:
        parsed = list(string.Formatter().parse(text))
    except ValueError as error:
        raise BadInput(f"--template: {error} (a brace itself is written twice)") from error
    for _, name, form, conversion in parsed:
        if name == "" or form or conversion:
            raise BadInput("--template: a gap is the name of a field in braces, such as {text}")
    template = Template(tuple((piece, name) for piece, name, _, _ in parsed))
    if all(name is None for _, name in template.pieces):
        raise BadInput("--template: it has no gap, such as {text}; all prompts would be the same")
    return template


def text_of(fields: Mapping[str, Any], name: str) -> str:
    """A field as text, what is no text as JSON; raises MissingField where it is absent or null."""
    value = fields.get(name)
    if value is None:
        raise MissingField(name)
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
