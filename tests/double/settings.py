"""What a test can set in the double, and how it is at first."""

from typing import TypedDict

import msgspec

MODELS = ("gpt-6-luna", "gpt-6.1-terra", "gpt-6.1-sol", "gpt-6.2-sol", "gpt-6-astra")
BATCH_FILE_BYTES = 200 * 1024 * 1024
BATCH_FILE_LINES = 50_000


class Settings(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """None of a limit: there is none."""

    keys: list[str] | None = None
    """Those accepted; None: any."""
    models: list[str] | None = None
    """Those known, by live calls and batches; None: any, and a few are listed."""

    requests_per_minute: int | None = None
    """For each model."""
    requests_per_minute_of: dict[str, int] = {}
    """For models that have another limit."""
    tokens_per_minute: int | None = None
    """For each model; a request is charged its prompt and what it may generate."""

    validating_seconds: float = 1.0
    """All of these are seconds of the double's clock."""
    running_seconds: float = 60.0
    """How long a batch is in progress; its lines are all computed when it has passed."""
    lines_per_second: float | None = None
    """Instead of ``running_seconds``: lines are computed at this rate, in the file's order."""
    finalizing_seconds: float = 1.0
    cancelling_seconds: float = 1.0

    windows: list[str] = msgspec.field(default_factory=lambda: ["24h"])
    """Those accepted by `POST /v1/batches`, of 24h, 8h and 2h."""
    background_windows: list[str] = msgspec.field(default_factory=lambda: ["2h", "8h"])
    """Those accepted by `POST /v1/responses`, beside `soonest`."""
    queued_seconds: float = 1.0
    """How long a background response is queued."""
    response_seconds: float = 60.0
    """How long one is in progress after that."""
    enqueued_tokens: int | None = None
    """For each model, over all batches in progress."""
    batch_file_bytes: int = BATCH_FILE_BYTES
    batch_file_lines: int = BATCH_FILE_LINES


class Changes(TypedDict, total=False):
    """Any of `Settings`."""

    keys: list[str] | None
    models: list[str] | None
    requests_per_minute: int | None
    requests_per_minute_of: dict[str, int]
    tokens_per_minute: int | None
    validating_seconds: float
    running_seconds: float
    lines_per_second: float | None
    finalizing_seconds: float
    cancelling_seconds: float
    windows: list[str]
    background_windows: list[str]
    queued_seconds: float
    response_seconds: float
    enqueued_tokens: int | None
    batch_file_bytes: int
    batch_file_lines: int
