"""A streamed answer, read as it comes: when its tokens came, and how it ended."""

from typing import Any

import msgspec

from cli.bench.sample import Sample
from cli.bulk.faults import printable
from workers.backends.sse import DONE, Frame, FrameReader

MOST_CODE_CHARACTERS = 60
MOST_MESSAGE_CHARACTERS = 500
SIMULATED_FINGERPRINT = "fp_simulated"


class _InputDetails(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class _OutputDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


class _Choice(msgspec.Struct, frozen=True):
    delta: dict[str, Any] | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    system_fingerprint: str | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode


class StreamFailed(Exception):
    """A stream that was not a whole answer."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Reading:
    """The frames of one answer. Times are seconds since the request was sent."""

    def __init__(self) -> None:
        self._reader = FrameReader()
        self._first: float | None = None
        self._last: float | None = None
        self._usage = _Usage()
        self._finished = False
        self._thought = False
        self._simulated = False
        self._done: float | None = None

    def feed(self, received: bytes, seconds: float) -> None:
        """Take what has come by now; raises StreamFailed."""
        for frame in self._reader.feed(received):
            self._take(frame, seconds)

    def close(self, seconds: float) -> None:
        """Nothing more comes; raises StreamFailed where that is too early."""
        for frame in self._reader.finish():
            self._take(frame, seconds)
        if self._done is None or not self._finished:
            raise StreamFailed("cut off", "The stream ended before its end.")

    def sample(
        self, *, model: str, block: int, began: float, seconds: float, failure: StreamFailed | None
    ) -> Sample:
        """What it came to within ``seconds``; a failure may have had tokens before."""
        inputs = self._usage.prompt_tokens_details
        outputs = self._usage.completion_tokens_details
        thoughts = (outputs.reasoning_tokens if outputs else None) or 0
        return Sample(
            model=model,
            block=block,
            began=began,
            seconds=seconds if self._done is None else self._done,
            first_token_seconds=self._first,
            last_token_seconds=self._last,
            input_tokens=self._usage.prompt_tokens,
            cached_tokens=inputs.cached_tokens if inputs else None,
            output_tokens=self._usage.completion_tokens,
            hidden_tokens=0 if self._thought else thoughts,
            simulated=self._simulated,
            error=None if failure is None else failure.code,
            message=None if failure is None else failure.message,
        )

    def _take(self, frame: Frame, seconds: float) -> None:
        if self._done is not None:
            return
        if frame.data == DONE:
            self._done = seconds
            return
        try:
            chunk = _decode(frame.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise StreamFailed("not a chunk", f"A chunk makes no sense: {error}") from error
        if frame.event == b"error" or chunk.error is not None:
            raise said("in the stream", chunk.error)
        self._simulated |= chunk.system_fingerprint == SIMULATED_FINGERPRINT
        if chunk.usage is not None:
            self._usage = chunk.usage
        for choice in chunk.choices:
            self._finished |= choice.finish_reason is not None
            self._take_delta(choice.delta or {}, seconds)

    def _take_delta(self, delta: dict[str, Any], seconds: float) -> None:
        """A role alone is no token."""
        if not any(value for name, value in delta.items() if name != "role"):
            return
        self._thought |= any(delta.get(name) for name in ("reasoning", "reasoning_content"))
        self._last = seconds
        if self._first is None:
            self._first = seconds


def said(where: str, error: Any) -> StreamFailed:
    """An error in OpenAI's shape, or what came in its place, as a short code and in words."""
    fields = error if isinstance(error, dict) else {"message": error}
    code = fields.get("code") or fields.get("type")
    words = str(fields.get("message") or "It gives no reason.")
    return StreamFailed(
        _line(f"{where} {code}" if code else where)[:MOST_CODE_CHARACTERS],
        _line(words)[:MOST_MESSAGE_CHARACTERS],
    )


def _line(text: str) -> str:
    """In one line, and fit for a terminal."""
    return printable(" ".join(text.split()))
