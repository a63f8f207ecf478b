"""The report's plots. Texts are escaped: plotly takes some HTML in a text as markup."""

from collections.abc import Callable, Sequence
from html import escape
from itertools import cycle
from operator import attrgetter
from typing import Any

import plotly.graph_objects as go
from plotly.io import to_html

from cli.bench.figures import Summary, distribution
from cli.bench.report import Report
from cli.bench.sample import Sample

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
"""Of Okabe and Ito: told apart by the colour-blind too."""
HEIGHT_PIXELS = 340
MOST_CHARACTERS = 40
"""Of a name in a plot; the table has all of it."""
CONFIG = {"displayModeBar": False, "responsive": True}
"""The bar of buttons has one that sends the figures to plotly's cloud."""

Value = Callable[[Sample], float | None]


def plots(report: Report) -> list[str]:
    """Each as a piece of HTML; the first brings plotly.js along."""
    figures = [
        _distributions("Time to first token", report, attrgetter("first_token_seconds")),
        _distributions("Time per output token", report, attrgetter("token_seconds")),
        _distributions("Latency, to the answer's end", report, attrgetter("seconds")),
        _bars("Output tokens/s", report.summaries, lambda s: s.output_tokens_per_second),
        _bars("Requests/s", report.summaries, lambda s: s.requests_per_second),
    ]
    if any(one.failed for one in report.summaries):
        figures.append(_errors(report.summaries))
    return [
        to_html(
            figure,
            full_html=False,
            include_plotlyjs=number == 0,
            div_id=f"plot-{number}",
            config=CONFIG,
            default_height=f"{HEIGHT_PIXELS}px",
        )
        for number, figure in enumerate(figures)
    ]


def _distributions(title: str, report: Report, value: Value) -> go.Figure:
    """Of what succeeded: the share of requests that took no longer."""
    figure = _figure(title, "ms", "requests that took no longer")
    for model, colour in _coloured(report.setup.models):
        values = [value(s) for s in report.samples if s.model == model and s.error is None]
        steps = distribution(seconds for seconds in values if seconds is not None)
        figure.add_trace(
            go.Scatter(
                name=_name(model),
                x=[seconds * 1000 for seconds, _ in steps],
                y=[share for _, share in steps],
                line={"shape": "hv", "color": colour},
                hovertemplate="%{y:.1%} in %{x:,.1f} ms",
            )
        )
    return figure.update_yaxes(tickformat=".0%", range=[0, 1.01]).update_xaxes(rangemode="tozero")


def _bars(
    title: str, summaries: Sequence[Summary], value: Callable[[Summary], float | None]
) -> go.Figure:
    """An unknown value has no bar."""
    figure = _figure(title, "", "")
    coloured = _coloured([one.model for one in summaries])
    for number, ((model, colour), one) in enumerate(zip(coloured, summaries, strict=True)):
        figure.add_trace(
            go.Bar(
                name=_name(model),
                x=[number],
                y=[value(one)],
                marker={"color": colour},
                texttemplate="%{y:,.1f}",
            )
        )
    return _named(figure.update_layout(showlegend=False), summaries)


def _errors(summaries: Sequence[Summary]) -> go.Figure:
    figure = _figure("Failed requests by code", "", "")
    numbers = list(range(len(summaries)))
    for code in dict.fromkeys(code for one in summaries for code in one.errors):
        shares = [one.errors.get(code, 0) / max(one.requests, 1) for one in summaries]
        figure.add_trace(go.Bar(name=_name(code), x=numbers, y=shares))
    figure.update_layout(barmode="stack", showlegend=True)
    figure.update_yaxes(tickformat=".1%", rangemode="tozero")
    return _named(figure, summaries)


def _named(figure: go.Figure, summaries: Sequence[Summary]) -> go.Figure:
    """With the models under their bars."""
    names = [_name(one.model) for one in summaries]
    return figure.update_xaxes(tickvals=list(range(len(names))), ticktext=names)


def _figure(title: str, across: str, up: str) -> go.Figure:
    return go.Figure(
        layout={
            "title": {"text": title},
            "template": "plotly_white",
            "xaxis": {"title": {"text": across}},
            "yaxis": {"title": {"text": up}},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
            "margin": {"t": 80, "r": 20},
        }
    )


def _coloured(models: Sequence[str]) -> "zip[tuple[str, Any]]":
    return zip(models, cycle(COLOURS), strict=False)


def _name(text: str) -> str:
    return escape(text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…")
