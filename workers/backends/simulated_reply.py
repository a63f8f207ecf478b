"""One answer of the simulated backend: read from a body, written in each form that it can take."""

import time
from collections.abc import Iterable
from typing import ClassVar

import msgspec

from workers.backends import shapes, simulated_text
from workers.backends.protocol import Call, Usage
from workers.backends.refusal import RefusedError
from workers.backends.simulated_text import Prompt

CONTEXT_TOKENS = 8192
DEFAULT_ANSWER_TOKENS = 16
DEFAULT_DIMENSIONS = 8
MOST_CHOICES = 128
FINGERPRINT = "fp_simulated"

Prompts = str | list[str | int | list[int]]


class Knobs(msgspec.Struct, frozen=True):
    """What a test asks for; described in :mod:`workers.backends.simulated`."""

    status: int | None = None
    times: int | None = None
    retry_after_seconds: float | None = None
    break_after: int = 0
    milliseconds_per_token: float | None = None
    die: bool = False


class _Part(msgspec.Struct, frozen=True):
    text: str = ""


class _Message(msgspec.Struct, frozen=True):
    role: str
    content: str | list[_Part] | None = None

    def words(self) -> str:
        if isinstance(self.content, list):
            return f"{self.role} {' '.join(part.text for part in self.content)}"
        return f"{self.role} {self.content or ''}"


class _StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class _Asked(msgspec.Struct, frozen=True, kw_only=True):
    n: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream_options: _StreamOptions | None = None
    carpool_simulate: Knobs | None = None

    def answer_tokens(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class _Chat(_Asked, frozen=True, kw_only=True):
    messages: list[_Message]


class _Completion(_Asked, frozen=True, kw_only=True):
    prompt: Prompts


class _Embeddings(msgspec.Struct, frozen=True, kw_only=True):
    input: Prompts
    dimensions: int | None = None
    encoding_format: str | None = None
    carpool_simulate: Knobs | None = None


_chat = msgspec.json.Decoder(_Chat).decode
_completion = msgspec.json.Decoder(_Completion).decode
_embeddings = msgspec.json.Decoder(_Embeddings).decode


class Generated:
    """All choices of one generated answer; the subclasses give them their shape.

    ``knobs``, ``usage`` and ``length`` (tokens of each choice) are for the backend. Raises
    RefusedError, and msgspec's DecodeError for a body of another shape.
    """

    prefix: ClassVar[str]

    def __init__(self, call: Call, asked: _Asked, prompts: list[Prompt], param: str) -> None:
        wanted = asked.answer_tokens()
        self.knobs = asked.carpool_simulate
        self.length = DEFAULT_ANSWER_TOKENS if wanted is None else wanted
        self._n = 1 if asked.n is None else asked.n
        lengths = [simulated_text.count(prompt) for prompt in prompts]
        if not 1 <= self._n <= MOST_CHOICES:
            raise RefusedError(f"'n' must be 1 to {MOST_CHOICES}.", param="n")
        if self.length < 1:
            raise RefusedError("'max_tokens' must be at least 1.", param="max_tokens")
        _check_context(max(lengths), self.length, param)
        self.usage = Usage(
            prompt_tokens=sum(lengths), completion_tokens=self.length * self._n * len(prompts)
        )
        self._prompts = prompts
        self._finish_reason = "stop" if wanted is None else "length"
        self._include_usage = bool(asked.stream_options and asked.stream_options.include_usage)
        self._id = self.prefix + call.id.hex
        self._model = call.model
        self._created = int(time.time())

    def whole(self) -> msgspec.Struct:
        raise NotImplementedError

    def chunks(self) -> Iterable[msgspec.Struct]:
        """The same as a stream, with the usage at its end if that was asked for."""
        raise NotImplementedError

    def _choices(self) -> Iterable[tuple[int, list[str]]]:
        for index, prompt in enumerate(self._prompts):
            for choice in range(self._n):
                seed = simulated_text.digest(prompt, choice)
                yield index * self._n + choice, simulated_text.tokens(seed, self.length)

    def _chunk_usage(self) -> msgspec.UnsetType | None:
        return None if self._include_usage else msgspec.UNSET

    def _token_usage(self) -> shapes.TokenUsage:
        return shapes.TokenUsage(
            prompt_tokens=self.usage.prompt_tokens,
            total_tokens=self.usage.prompt_tokens + self.usage.completion_tokens,
            completion_tokens=self.usage.completion_tokens,
            prompt_tokens_details=shapes.PromptTokensDetails(),
        )


class Chat(Generated):
    prefix = "chatcmpl-"

    def __init__(self, call: Call) -> None:
        asked = _chat(call.body)
        if not asked.messages:
            raise RefusedError("'messages' must not be empty.", param="messages")
        conversation = "\n".join([message.words() for message in asked.messages])
        super().__init__(call, asked, [conversation], "messages")

    def whole(self) -> shapes.ChatCompletion:
        return shapes.ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=[
                shapes.Choice(index, shapes.Message("".join(tokens)), self._finish_reason)
                for index, tokens in self._choices()
            ],
            usage=self._token_usage(),
            system_fingerprint=FINGERPRINT,
        )

    def chunks(self) -> Iterable[shapes.ChatChunk]:
        for index, tokens in self._choices():
            role: str | None = "assistant"
            for token in tokens:
                yield self._chunk([shapes.ChunkChoice(index, shapes.Delta(token, role))])
                role = None
            yield self._chunk([shapes.ChunkChoice(index, shapes.Delta(), self._finish_reason)])
        if self._include_usage:
            yield self._chunk([], self._token_usage())

    def _chunk(
        self, choices: list[shapes.ChunkChoice], usage: shapes.TokenUsage | None = None
    ) -> shapes.ChatChunk:
        return shapes.ChatChunk(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=choices,
            system_fingerprint=FINGERPRINT,
            usage=usage or self._chunk_usage(),
        )


class Completion(Generated):
    prefix = "cmpl-"

    def __init__(self, call: Call) -> None:
        asked = _completion(call.body)
        super().__init__(call, asked, _prompts(asked.prompt, "prompt"), "prompt")

    def whole(self) -> shapes.TextCompletion:
        choices = [
            shapes.TextChoice(index, "".join(tokens), self._finish_reason)
            for index, tokens in self._choices()
        ]
        return self._completion(choices, self._token_usage())

    def chunks(self) -> Iterable[shapes.TextCompletion]:
        for index, tokens in self._choices():
            for token in tokens:
                yield self._completion([shapes.TextChoice(index, token, None)])
            yield self._completion([shapes.TextChoice(index, "", self._finish_reason)])
        if self._include_usage:
            yield self._completion([], self._token_usage())

    def _completion(
        self, choices: list[shapes.TextChoice], usage: shapes.TokenUsage | None = None
    ) -> shapes.TextCompletion:
        return shapes.TextCompletion(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=choices,
            system_fingerprint=FINGERPRINT,
            usage=usage or self._chunk_usage(),
        )


class Embedded:
    """The vectors of one request for embeddings."""

    def __init__(self, call: Call) -> None:
        asked = _embeddings(call.body)
        self.knobs = asked.carpool_simulate
        self._inputs = _prompts(asked.input, "input")
        self._dimensions = DEFAULT_DIMENSIONS if asked.dimensions is None else asked.dimensions
        self._packed = asked.encoding_format == "base64"
        self._model = call.model
        lengths = [simulated_text.count(text) for text in self._inputs]
        _check_context(max(lengths), 0, "input")
        if not 1 <= self._dimensions <= CONTEXT_TOKENS:
            raise RefusedError(f"'dimensions' must be 1 to {CONTEXT_TOKENS}.", param="dimensions")
        self.usage = Usage(prompt_tokens=sum(lengths))

    def whole(self) -> shapes.EmbeddingList:
        pack = simulated_text.packed if self._packed else list
        vectors = [simulated_text.vector(text, self._dimensions) for text in self._inputs]
        tokens = self.usage.prompt_tokens
        return shapes.EmbeddingList(
            data=[shapes.Embedding(index, pack(values)) for index, values in enumerate(vectors)],
            model=self._model,
            usage=shapes.TokenUsage(prompt_tokens=tokens, total_tokens=tokens),
        )


def _prompts(given: Prompts, param: str) -> list[Prompt]:
    """OpenAI's four forms (a text, texts, token ids, lists of token ids) as one list of prompts."""
    if isinstance(given, str):
        return [given]
    if not given:
        raise RefusedError(f"'{param}' must not be empty.", param=param)
    numbers = [item for item in given if isinstance(item, int)]
    if not numbers:
        return [item for item in given if not isinstance(item, int)]
    if len(numbers) != len(given):
        raise RefusedError(f"'{param}' must not mix token ids with texts.", param=param)
    return [numbers]


def _check_context(prompt_tokens: int, answer_tokens: int, param: str) -> None:
    total = prompt_tokens + answer_tokens
    if total > CONTEXT_TOKENS:
        raise RefusedError(
            f"This model's maximum context length is {CONTEXT_TOKENS} tokens. However, you "
            f"requested {total} tokens ({prompt_tokens} in the prompt, {answer_tokens} in the "
            "completion). Please reduce the length of either.",
            param=param,
            code="context_length_exceeded",
        )
