"""One streamed answer of a provider: its frames are read, and a stream without its end failed."""

import msgspec

from carpool.errors import PassingError
from workers.backends import openai_body
from workers.backends.openai_body import NotAnAnswerError
from workers.backends.openai_errors import openai_shaped, refuse
from workers.backends.protocol import Answer, Call, Emit, Usage
from workers.backends.sse import DONE, Frame, FrameReader

UNKNOWN_ERROR = 502


class ProviderStream:
    """The frames of one streamed answer, read until its [DONE]; without that it is a failure."""

    def __init__(self, backend: str, call: Call, emit: Emit, *, usage_asked: bool) -> None:
        self._backend = backend
        self._model = call.model
        self._emit = emit
        self._usage_asked = usage_asked
        self._reader = FrameReader()
        self._usage = Usage()
        self._emitted = False
        self._done = False
        self._refused: Answer | None = None

    def feed(self, received: bytes) -> bool:
        """Emit what is complete; true when nothing more is to come."""
        return any(self._take(frame) for frame in self._reader.feed(received))

    def finish(self) -> Answer:
        """Nothing more comes; raises NotAnAnswerError if that is too early."""
        if self._refused is None and not self._done:
            any(self._take(frame) for frame in self._reader.finish())
        if self._refused is not None:
            return self._refused
        if not (self._done and self._emitted):
            raise NotAnAnswerError("the stream ended before its end")
        return Answer(usage=self._usage)

    def _take(self, frame: Frame) -> bool:
        if frame.data == DONE:
            self._done = True
            return True
        if error := _error_of(frame):
            self._refused = self._refuse(frame.data, error)
            return True
        chunk = openai_body.chunk(frame.data, self._model, usage_asked=self._usage_asked)
        if chunk.usage is not None:
            self._usage = chunk.usage
        if chunk.body:
            self._emitted = True
            self._emit(chunk.body)
        return False

    def _refuse(self, data: bytes, status: int) -> Answer:
        if not self._emitted:
            return refuse(self._backend, status, data, {})
        raise PassingError(
            f"The provider of backend '{self._backend}' sent an error inside a stream.",
            body=openai_shaped(UNKNOWN_ERROR, data),
        )


def _error_of(frame: Frame) -> int:
    """The status that an error frame stands for (vLLM puts it in ``code``); 0 for a chunk."""
    named = frame.event == b"error"
    if not named and b'"error"' not in frame.data:
        return 0
    try:
        found = msgspec.json.decode(frame.data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return UNKNOWN_ERROR if named else 0
    error = found.get("error") if isinstance(found, dict) else None
    if error is None:
        return UNKNOWN_ERROR if named else 0
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else UNKNOWN_ERROR
