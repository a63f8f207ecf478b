"""Batches for tests: files of lines, put straight into the file store, and proofs over results."""

import json
from collections.abc import Iterable
from typing import Any

Json = dict[str, Any]
MODEL = "simulated"
URL = "/v1/chat/completions"


def line(custom_id: str, **changes: Any) -> Json:
    """A line of an input file; ``body`` changes go over a short chat."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"Who is {custom_id}?"}],
        "max_tokens": 2,
    }
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": URL,
        "body": body | changes.pop("body", {}),
    } | changes


def jsonl(lines: Iterable[Json]) -> bytes:
    """The bytes of a file."""
    return b"".join(json.dumps(item).encode() + b"\n" for item in lines)
