"""What one request of a benchmark took and brought."""

import msgspec


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """Times are in seconds; None is what is not known, or never came."""

    model: str
    block: int
    """Requests of one block run together, with nothing beside them; see :mod:`cli.bench.turns`."""
    began: float
    """After the benchmark's own begin."""
    seconds: float
    """To its end, whichever that was."""
    first_token_seconds: float | None = None
    last_token_seconds: float | None = None
    input_tokens: int | None = None
    cached_tokens: int | None = None
    """Of the input, those that the server need not compute again."""
    output_tokens: int | None = None
    hidden_tokens: int = 0
    """Of the output, thoughts that were not sent."""
    simulated: bool = False
    """Whether a backend made the text up."""
    error: str | None = None
    """A short code of what went wrong: a status, ``timeout``, ``connection``, …"""
    message: str | None = None
    """The same in words, as they were said."""

    @property
    def token_seconds(self) -> float | None:
        """For each output token after the first; None below two of them."""
        if self.first_token_seconds is None or self.last_token_seconds is None:
            return None
        later = (self.output_tokens or 0) - self.hidden_tokens - 1
        return (self.last_token_seconds - self.first_token_seconds) / later if later > 0 else None
