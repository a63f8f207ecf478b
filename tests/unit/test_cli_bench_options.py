"""What cannot be compared is refused in one line, before any server is asked."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from carpool.errors import ConfigurationError
from carpool.settings import Settings, load
from cli.bench.options import Options, find_wish
from cli.bench.prices import find_prices

PRICES = """
[backends.gpu]
kind = "vllm"
model = "/models/llama"
[backends.cloud]
kind = "openai"
base_url = "http://127.0.0.1:1/v1"
[models.own]
backends = ["gpu"]
[models.priced]
backends = ["gpu"]
[models.other]
backends = ["cloud"]
upstream = "gpt"
[models.both]
backends = ["gpu", "cloud"]
[[prices]]
model = "own"
since = 2020-01-01
input = 7
output = 7
[[prices]]
model = "priced"
backend = "gpu"
since = 2020-01-01
input = 0.25
output = 0.5
[[prices]]
model = "gpt"
since = 2020-01-01
input = 1
cached = 0.05
output = 5
[[prices]]
model = "gpt"
since = 2999-01-01
input = 100
output = 500
[[prices]]
model = "both"
since = 2020-01-01
input = 3
output = 3
"""


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    monkeypatch.setenv("CARPOOL_DATA_DIR", str(tmp_path))


@pytest.fixture
def priced(tmp_path: Path) -> Settings:
    path = tmp_path / "carpool.toml"
    path.write_text(PRICES)
    return load(config=path)


def refused(**options: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        find_wish(Options(**{"models": "a,b"} | options), load())
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_usual() -> None:
    wish = find_wish(Options(models="own, gpt:ft/x"), load())
    assert wish.models == ["own", "gpt:ft/x"]
    assert (wish.workload.requests, wish.concurrency, wish.prices) == (200, 8, {})
    assert wish.directory.name.startswith("bench-2")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"models": "a"}, "--models: name at least two"),
        ({"models": ""}, "--models: name at least two"),
        ({"models": "a,,b"}, "--models: name at least two"),
        ({"models": "a,b,a"}, "--models: one of them is named twice"),
        ({"concurrency": 0}, "--concurrency: from 1 to 1,000, not 0"),
        ({"concurrency": 1001}, "--concurrency: from 1"),
        ({"requests": 0}, "--requests: from 1 to 100,000, not 0"),
        ({"requests": -5}, "--requests: from 1"),
        ({"prompt_tokens": 0}, "--prompt-tokens: from 1"),
        ({"max_tokens": 0}, "--max-tokens: from 1"),
        ({"input": Path("none.txt")}, "--input: there is no file none.txt"),
        ({"input": Path("none.txt"), "seed": 0}, "--seed: it is for made-up prompts"),
        ({"input": Path("none.txt"), "prompt_tokens": 9}, "--prompt-tokens: it is for made-up"),
        ({"prices": ("a",)}, "--price: 'a' is not MODEL=in/out of a model"),
        ({"prices": ("c=1/2",)}, "--price: 'c=1/2' is not MODEL=in/out of a model"),
        ({"prices": ("a=1/2", "a=1/2")}, "--price: 'a' has two"),
        ({"prices": ("a=1",)}, "--price: 'a=1' is not MODEL=in/out, in dollars"),
        ({"prices": ("a=1/2/3",)}, "--price: 'a=1/2/3' is not"),
        ({"prices": ("a=-1/2",)}, "--price: 'a=-1/2' is not"),
        ({"prices": ("a=nan/2",)}, "--price: 'a=nan/2' is not"),
        ({"prices": ("a=1/inf",)}, "--price: 'a=1/inf' is not"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(options: dict[str, Any], reason: str) -> None:
    assert refused(**options).startswith(reason)


def test_without_a_server_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL")
    assert "or run `carpool up`" in refused()


def test_a_models_name_may_hold_the_signs_of_a_price() -> None:
    found = find_prices(load(), ["org/a=b"], ["org/a=b=0.1/2"])
    assert (found["org/a=b"].input, found["org/a=b"].output) == (Decimal("0.1"), Decimal(2))


def test_prices_of_the_file_hold_now_where_they_are_paid(priced: Settings) -> None:
    """The list price of what the team's own GPUs answer is what is saved there, not paid."""
    models = ["own", "priced", "other", "both", "unknown"]
    found = find_prices(priced, models, [])
    assert {model: price.input for model, price in found.items()} == {
        "priced": Decimal("0.25"),
        "other": Decimal(1),
        "both": Decimal(3),
    }
    assert found["other"].cached == Decimal("0.05")


def test_the_command_line_has_the_last_word(priced: Settings) -> None:
    found = find_prices(priced, ["own", "other"], ["other=2/4"])
    assert found["other"].output == 4
    assert "own" not in found
