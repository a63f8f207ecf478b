"""An input file as requests: each row becomes a line of OpenAI's batch format."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from carpool.errors import InvalidRequest
from carpool.states import Endpoint
from carpool.windows import parse_window
from cli.bulk.faults import BadInput, Faults
from cli.bulk.options import Options, flag
from cli.bulk.rows import TEXT_FIELD, Kind, Row, kind_of, read_rows
from cli.bulk.template import MissingField, Template, parse_template, text_of

ID_PREFIX = "row-"
PROMPT_FIELDS = ("prompt", TEXT_FIELD)
DEFAULT_WINDOW = "24h"
LINE_OPTIONS = ("model", "template", "system", "max_tokens", "column", "id_column")
"""They would change nothing in a file that is in OpenAI's batch format."""

_encode = msgspec.json.Encoder().encode


class _Given(msgspec.Struct):
    """Of a line in OpenAI's batch format, what must be known here; the rest is the server's."""

    custom_id: str
    url: str
    body: msgspec.Raw


_decode_given = msgspec.json.Decoder(_Given).decode


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A row, and the line that it becomes."""

    row: Row
    custom_id: str
    line: bytes
    """With its newline."""


class Source:
    """A file with the options that it is read by."""

    def __init__(self, path: Path, kind: Kind, options: Options) -> None:
        """``options`` must be settled; raises BadInput where they do not suit the file."""
        self.path = path
        self.kind = kind
        self.options = options
        assert options.endpoint is not None
        self.endpoint = options.endpoint
        self._template: Template | None = None
        if options.template is not None:
            self._template = parse_template(options.template)

    @property
    def own_ids(self) -> bool:
        """Whether the custom_ids stand in the file."""
        return self.kind is Kind.REQUESTS or self.options.id_column is not None

    def rows(self) -> Iterator[Row]:
        """All rows; raises BadInput."""
        faults = Faults(self.path)
        yield from read_rows(self.path, self.kind, faults)
        faults.check()

    def requests(self, faults: Faults | None = None) -> Iterator[Request]:
        """All requests; raises BadInput at the end, where there is a fault, or before."""
        faults = faults or Faults(self.path)
        for row in read_rows(self.path, self.kind, faults):
            request = self._given(row, faults) if self.kind is Kind.REQUESTS else self._made(row)
            if isinstance(request, str):
                faults.add(row.line, request)
            elif request is not None:
                yield request
        faults.check()

    def _given(self, row: Row, faults: Faults) -> Request | None:
        """A line passed through."""
        try:
            given = _decode_given(row.text)
        except msgspec.ValidationError as error:
            faults.add(row.line, f"is not a line of OpenAI's batch format: {error}")
        except (msgspec.DecodeError, RecursionError):
            faults.add(row.line, "is not JSON")
        else:
            if given.url == self.endpoint:
                return Request(row=row, custom_id=given.custom_id, line=row.text + b"\n")
            faults.add(row.line, f"the url '{given.url}' is not that of the batch, {self.endpoint}")
        return None

    def _made(self, row: Row) -> Request | str:
        """A line made of a prompt, or what is wrong with it."""
        try:
            custom_id = self._custom_id(row)
            body = self._body(self._prompt(row.fields))
        except MissingField as missing:
            return f"has no field '{missing}'"
        except _NoPrompt:
            return "has no field 'prompt' or 'text'; name one by --column, or use --template"
        made = {"custom_id": custom_id, "method": "POST", "url": self.endpoint, "body": body}
        return Request(row=row, custom_id=custom_id, line=_encode(made) + b"\n")

    def _custom_id(self, row: Row) -> str:
        if self.options.id_column is None:
            return f"{ID_PREFIX}{row.number}"
        return text_of(row.fields, self.options.id_column)

    def _prompt(self, fields: Mapping[str, Any]) -> str:
        column = self.options.column
        if self._template is not None:
            if column is not None:
                fields = {**fields, TEXT_FIELD: text_of(fields, column)}
            return self._template.fill(fields)
        if column is None:
            column = next((name for name in PROMPT_FIELDS if name in fields), None)
        if column is None and len(fields) == 1:
            column = next(iter(fields))
        if column is None:
            raise _NoPrompt
        return text_of(fields, column)

    def _body(self, prompt: str) -> dict[str, Any]:
        """See :func:`settled` for which options an endpoint takes."""
        options = self.options
        limit: dict[str, Any] = {}
        match self.endpoint:
            case Endpoint.EMBEDDINGS:
                said: dict[str, Any] = {"input": prompt}
            case Endpoint.COMPLETIONS:
                said, limit = {"prompt": prompt}, {"max_tokens": options.max_tokens}
            case _:
                messages = [] if options.system is None else [_message("system", options.system)]
                said = {"messages": [*messages, _message("user", prompt)]}
                limit = {"max_completion_tokens": options.max_tokens}
        return {"model": options.model, **said, **(limit if options.max_tokens else {})}


class _NoPrompt(Exception):
    """Nothing tells which field the prompt is."""


def settled(path: Path, given: Options) -> tuple[Kind, Options]:
    """What the file holds, and the options with their defaults; raises BadInput.

    ``model`` stays None where it is needed and not given.
    """
    window = given.window or DEFAULT_WINDOW
    try:
        parse_window(window)
    except InvalidRequest as error:
        raise BadInput(f"--window: {error}") from error
    kind = kind_of(path)
    if kind is Kind.REQUESTS:
        options = _settled_requests(path, given)
    else:
        endpoint = given.endpoint or Endpoint.CHAT
        if endpoint not in list(Endpoint):
            raise BadInput(f"--endpoint: '{endpoint}' is none of {', '.join(Endpoint)}")
        for name in given.names():
            if name in _not_for(endpoint):
                raise BadInput(f"{flag(name)}: {endpoint} takes none")
        options = msgspec.structs.replace(given, endpoint=str(endpoint))
    return kind, msgspec.structs.replace(options, window=window)


def _settled_requests(path: Path, given: Options) -> Options:
    for name in given.names():
        if name in LINE_OPTIONS:
            raise BadInput(
                f"{flag(name)}: {path.name} is in OpenAI's batch format, and is sent as it is"
            )
    if given.endpoint is not None:
        return given
    first = next(read_rows(path, Kind.REQUESTS, Faults(path)))
    try:
        url = _decode_given(first.text).url
    except msgspec.ValidationError as error:
        raise BadInput(
            f"{path.name}: line {first.line}: is not a line of OpenAI's batch format: {error}"
        ) from error
    return msgspec.structs.replace(given, endpoint=url)


def _not_for(endpoint: str) -> tuple[str, ...]:
    match endpoint:
        case Endpoint.EMBEDDINGS:
            return ("system", "max_tokens")
        case Endpoint.COMPLETIONS:
            return ("system",)
        case _:
            return ()


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
