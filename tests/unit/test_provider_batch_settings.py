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
    assert found.responses_windows == {"8h": 0.6, "2h": 0.7}
    assert found.tiers == {"24h": 0.5, "8h": 0.6, "2h": 0.7}
    assert (found.max_lines, found.max_bytes) == (50_000, 200_000_000)
    assert found.max_enqueued_tokens is None
    assert found.max_background_responses == 5000


def test_windows_and_their_prices_are_the_operators(tmp_path: Path) -> None:
    assert settings(tmp_path, 'windows = {"2h" = 0.7, "8h" = 0.6}').windows == {
        "2h": 0.7,
        "8h": 0.6,
    }


def test_other_providers_have_the_background_windows_that_they_are_said_to_have(
    tmp_path: Path,
) -> None:
    """A compatible server that knows the Batch API need not know the other way."""
    elsewhere = 'base_url = "http://here/v1"'
    assert settings(tmp_path, elsewhere).tiers == {"24h": 0.5}
    said = f'{elsewhere}\nbackground_windows = {{"4h" = 0.8}}'
    assert settings(tmp_path, said).tiers == {"24h": 0.5, "4h": 0.8}


def test_a_window_of_the_batch_api_takes_the_place_of_the_same_in_the_background(
    tmp_path: Path,
) -> None:
    found = settings(tmp_path, 'windows = {"24h" = 0.5, "2h" = 0.6}')
    assert found.responses_windows == {"8h": 0.6}
    assert settings(tmp_path, "background_windows = {}").responses_windows == {}


@pytest.mark.parametrize(
    "more",
    [
        'windows = {"soon" = 0.5}',
        'windows = {"24h" = -1}',
        "windows = {}",
        'background_windows = {"soonest" = 1}',
        'background_windows = {"24h" = 0.5}',
        "max_lines = 0",
        "max_background_responses = 0",
        "gather_seconds = 0",
        "polls = 3",
    ],
)
def test_what_cannot_be_is_refused_by_its_key(tmp_path: Path, more: str) -> None:
    with pytest.raises(ConfigurationError, match=r"backends\.patient") as refused:
        settings(tmp_path, more)
    assert "sk-1" not in str(refused.value)
