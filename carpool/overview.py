"""An overview as the admin API's JSON, by its names: what waits, who serves, and what is wrong."""

import msgspec


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """What ended, for each second of the last ``span_seconds``."""

    span_seconds: float
    requests_per_second: float
    input_tokens_per_second: float
    output_tokens_per_second: float
    error_rate: float | None


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """Dollars, by the means that saved them."""

    shared: float
    cache: float
    prefix: float
    window: float
    own: float


class Today(msgspec.Struct, frozen=True, kw_only=True):
    """What ended since midnight (UTC); money in dollars."""

    requests: int
    failed: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    paid: float
    saved: float
    saved_by: Saved


class QueueView(msgspec.Struct, frozen=True, kw_only=True):
    """A group of the queue; ``team`` is None for all those together that had no room."""

    model: str
    service_class: str = msgspec.field(name="class")
    team: str | None
    waiting: int
    in_flight: int
    oldest_seconds: float | None
    drain_seconds: float | None
    reason: str | None
    text: str | None


class EngineView(msgspec.Struct, frozen=True, kw_only=True):
    """The engines of a backend, together."""

    running: int | None
    waiting: int | None
    kv_cache_usage: float | None
    prefix_cache_hit_rate: float | None


class BackendView(msgspec.Struct, frozen=True, kw_only=True):
    """A backend and its runs; ``state`` is up, down, paused or absent."""

    backend: str
    kind: str
    state: str
    runs: int
    in_flight: int
    capacity: int
    models: list[str]
    engine: EngineView | None


class ProcessesView(msgspec.Struct, frozen=True, kw_only=True):
    """How many processes of a kind live, are paused, and have died within the hour."""

    kind: str
    live: int
    paused: int
    dead: int


class BatchesView(msgspec.Struct, frozen=True, kw_only=True):
    """The batches that are open."""

    open: int
    lines_left: int


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that a person must act on."""

    code: str
    text: str
    model: str | None = None
    backend: str | None = None
    since_seconds: float | None = None


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """It all; times in Unix seconds."""

    object: str = "overview"
    at: float
    counted_at: float
    """When the queue was counted last."""
    waiting: int
    in_flight: int
    oldest_seconds: float | None
    drain_seconds: float | None
    rates: Rates
    today: Today
    queues: list[QueueView]
    backends: list[BackendView]
    processes: list[ProcessesView]
    batches: BatchesView
    problems: list[Problem]
