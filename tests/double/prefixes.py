"""The provider's prefix cache: whole blocks of a prompt's start, known from 1,024 tokens up."""

import hashlib

LEAST_TOKENS = 1024
BLOCK_TOKENS = 128
BYTES_A_TOKEN = 4


class Prefixes:
    """What has been read before, for each model and `prompt_cache_key`."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def look(self, model: str, key: str | None, prompt: bytes, tokens: int) -> int:
        """How many of the prompt's tokens were cached; from now on all of its blocks are."""
        if tokens < LEAST_TOKENS:
            return 0
        cached = 0
        digest = hashlib.sha256(f"{model}\0{key}\0".encode())
        for start in range(0, tokens - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            end = start + BLOCK_TOKENS
            digest.update(prompt[start * BYTES_A_TOKEN : end * BYTES_A_TOKEN])
            if end < LEAST_TOKENS:
                continue
            edge = digest.digest()
            if edge in self._seen:
                cached = end
            self._seen.add(edge)
        return cached
