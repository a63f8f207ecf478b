"""What a request lets others have of its answer, and what it takes of theirs."""

from dataclasses import dataclass

from starlette.requests import Request

from api.intake import Intake

ASKED = "x-carpool-share"
"""Asks for sharing also where answers differ: at a temperature above 0, or n above 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sharing:
    """Of one request: ``Cache-Control`` as RFC 9111 has it, and whether answers are alike."""

    shareable: bool
    """Whether it may share a computation with identical ones, and its answer be kept for them."""
    max_age_seconds: float
    """How old an answer it takes; 0 is none."""


def sharing_of(request: Request, intake: Intake) -> Sharing:
    """Read the headers; a value that cannot be read asks for a fresh answer."""
    directives = {}
    for part in request.headers.get("cache-control", "").lower().split(","):
        name, _, value = part.strip().partition("=")
        directives[name] = value.strip('"')
    asked = request.headers.get(ASKED, "").lower() == "true"
    shareable = (intake.deterministic or asked) and "no-store" not in directives
    if "max-age" in directives:
        age = directives["max-age"]
        most = float(age) if age.isdecimal() and len(age) < 10 else 0.0
    else:
        most = float("inf")
    return Sharing(
        shareable=shareable,
        max_age_seconds=0.0 if "no-cache" in directives or not shareable else most,
    )
