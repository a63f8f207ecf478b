"""The report as one HTML page that needs nothing but itself."""

from collections.abc import Iterator, Sequence
from html import escape

from cli.bench.report import Report, error_rows, rows
from cli.bench.verdict import Answer

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)
"""The browser is told to fetch nothing."""
MOST_MESSAGES = 50
MARKS = {Answer.KEEPS_UP: "good", Answer.FALLS_BEHIND: "bad", Answer.UNKNOWN: "unknown"}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; margin: 2rem auto; max-width: 76rem;
  padding: 0 1.5rem }
h1 { font-size: 1.4rem; margin-bottom: 0 }
h2 { font-size: 1.1rem; margin-top: 2rem }
.setup, .note { color: #57606a }
.verdict { font-size: 1.15rem; padding: .8rem 1rem; border-left: .4rem solid; margin: .8rem 0;
  overflow-wrap: anywhere }
.good { border-color: #1a7f37; background: #e9f7ec }
.bad { border-color: #cf222e; background: #fdecea }
.unknown { border-color: #9a6700; background: #fff6dd }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(30rem, 100%), 1fr)) }
.plots > div { min-width: 0 }
.wide { overflow-x: auto }
table { margin-bottom: 1rem; border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .9rem; border-bottom: 1px solid #d8dee4; text-align: right }
th:first-child, td:first-child { text-align: left }
th.words, td.words { text-align: left; overflow-wrap: anywhere }
"""


def page(report: Report) -> str:
    """The page; every text of it that came from elsewhere is escaped."""
    from cli.bench.plots import plots

    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(' and '.join(report.setup.models))}</title>",
            f"<style>{STYLE}</style>\n</head>\n<body>",
            *_head(report),
            '<div class="plots">',
            *(f"<div>{plot}</div>" for plot in plots(report)),
            "</div>\n<h2>Figures</h2>",
            _table(("", *report.setup.models), rows(report.summaries)),
            *_errors(report),
            "</body>\n</html>\n",
        )
    )


def _head(report: Report) -> Iterator[str]:
    setup = report.setup
    yield f"<h1>{escape(' against '.join(setup.models))}</h1>"
    yield (
        f'<p class="setup">{setup.requests:,} requests to each ({escape(setup.workload)}), '
        f"{setup.concurrency:,} at a time, in {setup.rounds:,} rounds; {escape(setup.server)}, "
        f"{report.began_at:%Y-%m-%d %H:%M} UTC; carpool {escape(report.carpool)}</p>"
    )
    for verdict in report.verdicts:
        yield f'<p class="verdict {MARKS[verdict.answer]}">{escape(verdict.sentence)}</p>'
    for note in report.notes:
        yield f'<p class="note">{escape(note)}</p>'


def _errors(report: Report) -> Iterator[str]:
    found = error_rows(report.summaries)
    if not found:
        return
    yield "<h2>Errors</h2>"
    yield _table(("code", *report.setup.models), found)
    first: dict[str, str] = {}
    for sample in report.samples:
        if sample.error is not None:
            first.setdefault(sample.error, sample.message or "")
    yield '<table><tr><th>code</th><th class="words">what was said first</th></tr>'
    for code, message in list(first.items())[:MOST_MESSAGES]:
        yield f'<tr><td>{escape(code)}</td><td class="words">{escape(message)}</td></tr>'
    yield "</table>"


def _table(header: Sequence[str], found: Sequence[tuple[str, Sequence[str]]]) -> str:
    lines = ["".join(f"<th>{escape(name)}</th>" for name in header)]
    for name, values in found:
        lines.append("".join(f"<td>{escape(cell)}</td>" for cell in (name, *values)))
    inside = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table>\n{inside}\n</table></div>'
