"""A report shows all that was measured, fetches nothing, and takes no text for markup."""

import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from html import unescape
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest

from carpool.prices import Price
from cli.bench.figures import MOST_STEPS
from cli.bench.page import page
from cli.bench.report import Report, Setup, encode_report, error_rows, make_report, rows
from cli.bench.sample import Sample
from cli.bench.terminal import plain, show

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m[red]&quot;"
BEGAN = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
ONE = Decimal(1)


def sample(model: str, number: int, **fields: Any) -> Sample:
    usual: dict[str, Any] = {
        "model": model,
        "block": 0,
        "began": float(number),
        "seconds": 0.75,
        "first_token_seconds": 0.25,
        "last_token_seconds": 0.75,
        "input_tokens": 10,
        "cached_tokens": 0,
        "output_tokens": 6,
    }
    return Sample(**usual | fields)


def report(
    models: tuple[str, ...] = ("own", "gpt"), *, samples: list[Sample] | None = None, **fields: Any
) -> Report:
    usual: dict[str, Any] = {
        "server": "localhost:8000",
        "models": list(models),
        "workload": "synthetic",
        "requests": 30,
        "concurrency": 2,
        "rounds": 2,
        "prices": {models[-1]: Price(input=ONE, cached=ONE, written=ONE, output=5 * ONE)},
    }
    if samples is None:
        samples = [sample(model, number) for model in models for number in range(30)]
    setup = Setup(**usual | fields)
    return make_report(setup, samples, began_at=BEGAN, interrupted=False)


class Tags(HTMLParser):
    """All tags with their attributes, and the texts of scripts apart from those of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._in_script = False
        self.feed(text)
        self.close()

    @property
    def scripts(self) -> int:
        return sum(tag == "script" for tag, _ in self.tags)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_script = tag in {"script", "style"}

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if not self._in_script:
            self.text += data


def test_the_page_needs_nothing_but_itself() -> None:
    tags = Tags(page(report()))
    fetching = {"src", "href", "srcset", "data", "action", "poster", "background"}
    assert not [tag for tag in tags.tags if fetching & set(tag[1])]
    assert {tag for tag, _ in tags.tags} <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "div", "script"),
        *("table", "tr", "th", "td"),
    }
    policies = [a["content"] for _, a in tags.tags if "http-equiv" in a]
    assert len(policies) == 1
    assert (policies[0] or "").startswith("default-src 'none'; ")


def test_plotly_is_in_the_page_once() -> None:
    made = page(report())
    assert made.count("plotly.js v") == 1
    assert made.count("Plotly.newPlot(") >= 5
    assert len(made) < 8_000_000


def test_hostile_names_and_errors_are_text() -> None:
    """The one script more is the plot of the errors."""
    hostile = [
        sample(model, number, **({"error": HOSTILE, "message": HOSTILE} if number == 5 else {}))
        for model in (HOSTILE, "gpt")
        for number in range(30)
    ]
    plainly, made = (
        page(report()),
        page(report((HOSTILE, "gpt"), samples=hostile, workload=HOSTILE, server=HOSTILE)),
    )
    tags = Tags(made)
    assert tags.scripts == Tags(plainly).scripts + 1
    assert "img" not in {tag for tag, _ in tags.tags}
    assert tags.text.count(HOSTILE) >= 5
    assert "<script>alert" not in made


def test_plotly_gets_no_markup_either() -> None:
    """It would show <a> and <b> of a name as links and bold type."""
    made = page(report(("<a href='http://x'>own</a>", "<b>" * 100)))
    named = re.findall(r'"name":("(?:[^"\\]|\\.)*")', made.rpartition("plotly.js v")[2])
    names = {json.loads(name) for name in named}
    assert "&lt;a href=&#x27;http://x&#x27;&gt;own&lt;/a&gt;" in names
    assert not [name for name in names if "<" in name]


def test_what_is_shown_is_what_was_measured() -> None:
    shown = dict(rows(report().summaries))
    assert shown["requests"] == ["30", "30"]
    assert shown["failed"] == ["0 (0.0%)", "0 (0.0%)"]
    assert shown["time to first token, p50"] == ["250.0 ms", "250.0 ms"]
    assert shown["time per output token, p99"] == ["100.0 ms", "100.0 ms"]
    assert shown["latency, p95"] == ["750.0 ms", "750.0 ms"]
    assert shown["tokens in"] == ["300", "300"]
    assert shown["money"] == ["unknown", "$0.001200"]
    assert shown["… for 1,000 requests"] == ["unknown", "$0.0400"]
    text = unescape(Tags(page(report())).text)
    for name, values in shown.items():
        assert all(f"{value}" in text for value in (name, *values))


def test_what_is_free_is_not_unknown() -> None:
    nothing = Decimal(0)
    free = Price(input=nothing, cached=nothing, written=nothing, output=nothing)
    shown = dict(rows(report(prices={"own": free}).summaries))
    assert shown["money"] == ["$0.000000", "unknown"]
    assert shown["… for 1,000 requests"] == ["$0.0000", "unknown"]


def test_errors_are_shown_by_code() -> None:
    samples = [
        *(sample("own", n, error="429 x", message="Slow down.") for n in range(3)),
        sample("own", 4),
        sample("gpt", 5, error="timeout", message="Late."),
    ]
    made = report(samples=samples)
    assert error_rows(made.summaries) == [
        ("429 x", ["3 (75.0%)", "–"]),
        ("timeout", ["–", "1 (100.0%)"]),
    ]
    text = Tags(page(made)).text
    assert "Slow down." in text
    assert "Failed requests by code" in page(made)
    assert "Failed requests by code" not in page(report())


def test_a_report_of_nothing_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    made = report(samples=[])
    assert "cannot be compared with gpt" in Tags(page(made)).text
    show(made)
    assert "own cannot be compared with gpt" in capsys.readouterr().out


def test_the_notes_say_what_limits_the_verdict() -> None:
    samples = [sample("own", 1, simulated=True), sample("gpt", 1)]
    setup = report(rounds=1).setup
    made = make_report(setup, samples, began_at=BEGAN, interrupted=True)
    assert len(made.notes) == 3
    assert made.notes[0].startswith("It was interrupted")
    assert "at least 4 requests" in made.notes[1]
    assert made.notes[2].startswith("The answers of own were simulated")
    assert all(note in unescape(Tags(page(made)).text) for note in made.notes)
    assert report().notes == []


def test_the_raw_figures_can_be_read_again() -> None:
    made = report()
    assert msgspec.json.decode(encode_report(made), type=Report) == made
    assert len(json.loads(encode_report(made))["samples"]) == 60


def test_many_samples_make_no_greater_plot() -> None:
    many = [sample("own", n, seconds=1 + n / 7) for n in range(20 * MOST_STEPS)]
    assert len(page(report(samples=many))) < len(page(report())) + 200_000


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show(report())
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["model", "own", "gpt"]
    assert "time to first token, p50    250.0 ms  250.0 ms" in printed
    assert printed[-1].startswith("own keeps up with gpt: ")
    assert not set("│┃┏\x1b") & set("".join(printed))


def test_a_table_in_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    show(report(("[red]own[/red]", "gpt")))
    printed = capsys.readouterr().out
    assert "[red]own[/red]" in printed
    latency = next(line for line in printed.splitlines() if "latency, p95" in line)
    assert [cell.strip() for cell in latency.split("│")[1:-1]] == [
        "latency, p95",
        "750.0 ms",
        "750.0 ms",
    ]


def test_no_text_commands_the_terminal() -> None:
    assert plain(("", ["\x1b[2J"]), [("\x07", ["1"])]) == "      \\x1b[2J\n\\x07  1\n"
