"""A price as an operator writes it: in the TOML file, on the command line, or to the admin API."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from carpool.prices import ANY, Price, PriceRow

MAX_DOLLARS: Final = 100_000
"""For a million tokens; no request at it is too dear for the ledger's 64 bits."""
MAX_FACTOR: Final = 10
MAX_NAME_LENGTH: Final = 256


def moment_of(value: Any) -> datetime:
    """The aware moment that a date (its midnight in UTC), a datetime or an ISO text means.

    A datetime without offset is in UTC. Raises ValueError.
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("expected a date or a date with time, as 2026-11-01") from None
    if isinstance(value, datetime):
        try:
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)
        except OverflowError:
            raise ValueError("expected a date of this era") from None
    if isinstance(value, date):
        return datetime.combine(value, time(), UTC)
    raise ValueError("a price needs the date since when it holds, as 2026-11-01")


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("it holds a NUL")
    return text


Name = Annotated[str, Field(max_length=MAX_NAME_LENGTH), AfterValidator(_storable)]
Dollars = Annotated[Decimal, Field(ge=0, le=MAX_DOLLARS, decimal_places=6)]
Factor = Annotated[Decimal, Field(gt=0, le=MAX_FACTOR, decimal_places=4)]


class PriceSettings(BaseModel):
    """Dollars for a million tokens; ``cached`` and ``written`` cost as ``input`` unless told.

    A request of more than ``long_tokens`` input tokens costs ``long_input`` and ``long_output``
    times as much.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Annotated[Name, Field(min_length=1)]
    backend: Name = ANY
    since: Annotated[datetime, BeforeValidator(moment_of)] = Field(
        default=None, validate_default=True
    )
    input: Dollars
    cached: Dollars | None = None
    written: Dollars | None = None
    output: Dollars
    long_tokens: int | None = Field(default=None, ge=1, lt=2**31)
    long_input: Factor | None = None
    long_output: Factor | None = None

    @field_validator("cached")
    @classmethod
    def _check_cached(cls, cached: Decimal | None, info: ValidationInfo) -> Decimal | None:
        if cached is not None and cached > info.data.get("input", cached):
            raise ValueError("cached input costs no more than other input")
        return cached

    @field_validator("long_input", "long_output")
    @classmethod
    def _check_long(cls, factor: Decimal | None, info: ValidationInfo) -> Decimal | None:
        if factor is not None and info.data.get("long_tokens") is None:
            raise ValueError("it needs long_tokens: above how many input tokens it holds")
        return factor

    @property
    def row(self) -> PriceRow:
        """The price with all that was left out."""
        return PriceRow(
            model=self.model,
            backend=self.backend,
            since=self.since,
            price=Price(
                input=self.input,
                cached=self.input if self.cached is None else self.cached,
                written=self.input if self.written is None else self.written,
                output=self.output,
                long_tokens=self.long_tokens,
                long_input=self.long_input or Decimal(1),
                long_output=self.long_output or Decimal(1),
            ),
        )


def fault_of(error: ValidationError) -> tuple[str | None, str]:
    """The field in which the first fault lies, None for none of them, and the reason."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return place or None, first["msg"].removeprefix("Value error, ")


def twice_priced(rows: Iterable[PriceRow]) -> PriceRow | None:
    """The first row whose model, backend and date another row before it has."""
    seen = set()
    for row in rows:
        key = (row.model, row.backend, row.since)
        if key in seen:
            return row
        seen.add(key)
    return None
