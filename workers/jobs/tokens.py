"""Counts the tokens of prompts with a model's own tokenizer, where it lies on this machine."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec
import structlog

from carpool.log import cause
from carpool.settings import Settings, VLLMSettings
from carpool.states import Endpoint

log = structlog.get_logger()


class TokenCounter:
    """Counts as the engine will: chats through the model's template."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def count(self, endpoint: Endpoint, bodies: Sequence[bytes]) -> int:
        """Tokens of the prompts of these bodies. Raises what the tokenizer raises. Blocks."""
        return sum(self._count(endpoint, msgspec.json.decode(body)) for body in bodies)

    def _count(self, endpoint: Endpoint, body: Any) -> int:
        if endpoint is Endpoint.CHAT:
            prompt = self._tokenizer.apply_chat_template(
                body["messages"],
                tools=body.get("tools"),
                add_generation_prompt=True,
                tokenize=False,
            )
            return self._text(prompt, special=False)
        prompts = body["prompt" if endpoint is Endpoint.COMPLETIONS else "input"]
        if isinstance(prompts, str):
            return self._text(prompts)
        if prompts and isinstance(prompts[0], int):
            return len(prompts)
        return sum(self._text(p) if isinstance(p, str) else len(p) for p in prompts)

    def _text(self, text: str, *, special: bool = True) -> int:
        return len(self._tokenizer(text, add_special_tokens=special)["input_ids"])


def token_counter(settings: Settings, backends: Sequence[str]) -> TokenCounter | None:
    """That of the first backend whose tokenizer can be loaded here; None where none can. Blocks."""
    for name in backends:
        backend = settings.backends.get(name)
        if isinstance(backend, VLLMSettings):
            try:
                return _load(backend.model)
            except Exception as error:  # of whatever kind: an estimate takes its place
                log.warning("tokenizer_not_loaded", backend=name, error=cause(error))
    return None


@lru_cache(maxsize=4)
def _load(model: str) -> TokenCounter:
    from transformers import AutoTokenizer

    return TokenCounter(AutoTokenizer.from_pretrained(model))
