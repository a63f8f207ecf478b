"""A backend of the kind `openai_batch` has its defaults, and refuses a window that is none."""

from pathlib import Path

import pytest

from carpool.errors import ConfigurationError
from carpool.settings import OpenAIBatchSettings, load

CONFIG = """
[backends.patient]
kind = "openai_batch"
api_key = "sk-1"
{more}

[models.luna]
backends = ["patient"]
"""


def settings(directory: Path, more: str = "") -> OpenAIBatchSettings:
    file = directory / "carpool.toml"
    file.write_text(CONFIG.format(more=more))
    found = load(config=file).backends["patient"]
    assert isinstance(found, OpenAIBatchSettings)
    return found


def test_the_defaults_are_openais_limits_and_price(tmp_path: Path) -> None:
    found = settings(tmp_path)
    assert found.windows == {"24h": 0.5}
    assert (found.max_lines, found.max_bytes) == (50_000, 200_000_000)
    assert found.max_enqueued_tokens is None


def test_windows_and_their_prices_are_the_operators(tmp_path: Path) -> None:
    assert settings(tmp_path, 'windows = {"2h" = 0.7, "8h" = 0.6}').windows == {
        "2h": 0.7,
        "8h": 0.6,
    }


@pytest.mark.parametrize(
    "more",
    [
        'windows = {"soon" = 0.5}',
        'windows = {"24h" = -1}',
        "windows = {}",
        "max_lines = 0",
        "gather_seconds = 0",
        "polls = 3",
    ],
)
def test_what_cannot_be_is_refused_by_its_key(tmp_path: Path, more: str) -> None:
    with pytest.raises(ConfigurationError, match=r"backends\.patient") as refused:
        settings(tmp_path, more)
    assert "sk-1" not in str(refused.value)
