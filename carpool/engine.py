"""What an engine says of itself, on its way from a worker to those who watch."""

import msgspec


class EngineFigures(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The figures of one run's engine; None for what it does not tell."""

    kind: str | None = None
    """Of its backend, as the settings name it: ``vllm``, say."""
    running: int | None = None
    """How many requests it computes, and how many wait inside it."""
    waiting: int | None = None
    kv_cache_usage: float | None = None
    """From 0 to 1."""
    prefix_cache_queries: int | None = None
    prefix_cache_hits: int | None = None
    """In tokens, over about the last minute."""


encode_figures = msgspec.json.Encoder().encode
decode_figures = msgspec.json.Decoder(EngineFigures).decode
