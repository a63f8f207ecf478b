"""Forms with one file, read as a stream: the file goes on as it comes, fields are kept."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from carpool.errors import InvalidRequest

MAX_FIELD_BYTES = 100_000
MAX_PARTS = 100
MAX_HEADER_BYTES = 16_384


class Form:
    """Takes the pieces of a multipart body.

    ``begin`` is called with the file's name and the fields that came before it, ``write`` with its
    bytes. Raises InvalidRequest for what is no form, or has no file or several.
    """

    def __init__(
        self,
        content_type: str,
        *,
        file_field: str,
        begin: Callable[[str, Mapping[str, str]], Awaitable[None]],
        write: Callable[[bytes], Awaitable[None]],
    ) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise InvalidRequest(
                "Expected a multipart/form-data body with a boundary.", code="invalid_form"
            )
        self.fields: dict[str, str] = {}
        self.complete = False
        self._file_field = file_field
        self._begin = begin
        self._write = write
        self._found = False
        self._parts = 0
        self._name = ""
        self._filename: str | None = None
        self._value = bytearray()
        self._header = (b"", b"")
        self._headers: dict[bytes, bytes] = {}
        self._events: list[tuple[str, bytes]] = []
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": lambda: self._events.append(("headers", b"")),
                "on_part_data": self._on_data,
                "on_part_end": lambda: self._events.append(("end", b"")),
                "on_end": self._on_end,
            },
            max_header_size=MAX_HEADER_BYTES,
        )

    async def read(self, pieces: AsyncIterator[bytes]) -> Mapping[str, str]:
        """Read it all; the fields."""
        async for piece in pieces:
            try:
                self._parser.write(piece)
            except FormParserError as error:
                raise InvalidRequest(f"The form is broken: {error}", code="invalid_form") from None
            events, self._events = self._events, []
            for event, data in events:
                await self._take(event, data)
        if not self.complete:
            raise InvalidRequest("The form ends before its last boundary.", code="invalid_form")
        if not self._found:
            raise InvalidRequest(
                f"Missing required parameter: '{self._file_field}'.",
                param=self._file_field,
                code="missing_required_parameter",
            )
        return self.fields

    async def _take(self, event: str, data: bytes) -> None:
        match event:
            case "part":
                self._headers = {}
            case "header":
                name, _, value = data.partition(b"\0")
                self._headers[name.lower()] = value
            case "headers":
                await self._begin_part()
            case "data" if self._filename is not None:
                await self._write(data)
            case "data":
                self._value += data
                if len(self._value) > MAX_FIELD_BYTES:
                    raise InvalidRequest(f"The field '{self._name}' is too long.", param=self._name)
            case "end" if self._filename is None:
                self.fields[self._name] = self._value.decode(errors="replace")

    async def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise InvalidRequest("The form has too many parts.", code="invalid_form")
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode(errors="replace")[:200]
        self._value = bytearray()
        self._filename = None
        if self._name != self._file_field:
            return
        if self._found:
            raise InvalidRequest(
                f"Expected one '{self._file_field}'.", param=self._file_field, code="invalid_value"
            )
        self._found = True
        self._filename = options.get(b"filename", b"upload").decode(errors="replace")
        await self._begin(self._filename, self.fields)

    def _on_part(self) -> None:
        self._events.append(("part", b""))

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0] + data[start:end], self._header[1])

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0], self._header[1] + data[start:end])

    def _on_header_end(self) -> None:
        self._events.append(("header", b"\0".join(self._header)))
        self._header = (b"", b"")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(("data", bytes(data[start:end])))

    def _on_end(self) -> None:
        self.complete = True
