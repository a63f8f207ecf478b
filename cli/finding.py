"""One thing that `carpool doctor` looked at."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """``advice`` says what to do, and that something is wrong."""

    subject: str
    seen: str
    advice: str | None = None

    @property
    def well(self) -> bool:
        return self.advice is None
