"""deploy/METRICS.md names each metric that the code registers, and no other, as it is."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

from api import metrics as of_api
from api import queue_families
from carpool import errors
from carpool import metrics as of_all
from carpool.error_codes import CODES, NONE, OTHER, code_of, counted
from carpool.errors import error_body
from workers import metrics as of_worker

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "carpool.json"
ROW = re.compile(r"^\| `(carpool_\w+)` \|(.*)\|$", re.M)
WHERE = {of_all: "all", of_api: "api", of_worker: "worker"}
TIME_UNITS = {"seconds": "_seconds", "Unix time": "_timestamp_seconds", "US dollars": "_dollars"}

STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
SELECTOR = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)\s*\{([^}]*)\}")
GROUPING = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")
MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
NAME = re.compile(r"(?<![\w$:])((?:carpool_|process_|python_|vllm:)\w+|up)\b(?!\s*\()")
OUTSIDE = {"instance", "job", "le"}
"""Labels that Prometheus itself adds."""
CLIENTS = {
    "process_start_time_seconds",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
}


class Row(NamedTuple):
    """A metric as the table, or the code, has it."""

    name: str
    kind: str
    labels: frozenset[str]
    where: str


def table() -> dict[str, tuple[Row, str]]:
    """The rows of the table with their units."""
    rows = {}
    for name, rest in ROW.findall((DEPLOY / "METRICS.md").read_text()):
        kind, labels, unit, where, meaning = map(str.strip, rest.split("|"))
        assert meaning
        row = Row(name, kind, frozenset(re.findall(r"`(\w+)`", labels)), where)
        assert name not in rows
        rows[name] = (row, unit)
    return rows


def registered() -> Iterator[Row]:
    """What importing all of the code registers, and what is collected from the database."""
    homes = {id(value): where for module, where in WHERE.items() for value in vars(module).values()}
    for collector in set(REGISTRY._collector_to_names):  # a registry lists them in no other way
        if not isinstance(collector, MetricWrapperBase):
            continue
        for family in collector.describe():
            if family.name.startswith("carpool_"):
                name = f"{family.name}_total" if family.type == "counter" else family.name
                labels = frozenset(collector._labelnames)
                yield Row(name, family.type, labels, homes[id(collector)])
    for read in queue_families.FAMILIES:
        yield Row(read.name, read.kind, frozenset(read.labels), "api, database")


def test_the_table_and_the_code_agree() -> None:
    code = {row.name: row for row in registered()}
    written = {name: row for name, (row, _) in table().items()}
    assert len(code) > 40
    assert written == code


def test_names_and_units_are_by_the_conventions() -> None:
    for row, unit in (found for found in table().values()):
        assert row.name.endswith("_total") == (row.kind == "counter"), row
        for named, suffix in TIME_UNITS.items():
            stem = row.name.removesuffix("_total")
            assert (unit == named) <= stem.endswith(suffix), row
        if row.name.removesuffix("_total").endswith("_seconds"):
            assert unit in TIME_UNITS, row


def test_no_label_is_a_team_a_key_or_a_request() -> None:
    labels = frozenset().union(*(row.labels for row, _ in table().values()))
    assert labels == {
        *("backend", "class", "code", "group", "kind", "means", "method", "model", "outcome"),
        *("path", "reason", "state", "status", "upstream", "version"),
    }


def _codes() -> Iterator[str]:
    """The codes that are written down in the code."""
    makers = {name for name, value in vars(errors).items() if isinstance(value, type)}
    makers |= {"error_body", "RefusedError", "Ending"}
    for directory in ("api", "carpool", "db", "workers"):
        for path in (ROOT / directory).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                match node:
                    case ast.Call(func=ast.Name(id=maker), keywords=keywords) if maker in makers:
                        given = [word.value for word in keywords if word.arg == "code"]
                    case ast.AnnAssign(
                        target=ast.Name(id="default_code"), value=ast.expr() as value
                    ):
                        given = [value]
                    case ast.Assign(targets=[ast.Name(id="default_code")], value=value):
                        given = [value]
                    case _:
                        continue
                for value in given:
                    if isinstance(value, ast.Constant) and isinstance(value.value, str):
                        yield value.value


def test_every_code_of_our_own_is_counted_by_its_name() -> None:
    codes = set(_codes())
    assert len(codes) > 30
    assert codes <= CODES


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (error_body("m", "server_error", code="rate_limit_exceeded"), "rate_limit_exceeded"),
        (error_body("m", "server_error"), NONE),
        (error_body("m", "server_error", code="x" * 10_000), OTHER),
        (error_body("m", "server_error", code='"} evil{model="'), OTHER),
        (b'{"error":{"code":429}}', OTHER),
        (b'{"error":{"code":{"a":1}}}', OTHER),
        (b'{"error":"no"}', OTHER),
        (b"<html>", OTHER),
        (b'{"error":{"code":"\xff"}}', OTHER),
        (b"", OTHER),
    ],
)
def test_what_a_provider_sends_makes_no_label(body: bytes, code: str) -> None:
    assert code_of(body) == code


def test_a_code_is_counted_by_its_name_if_it_is_known() -> None:
    assert [counted(code) for code in (None, "invalid_json", "no such")] == [
        NONE,
        "invalid_json",
        OTHER,
    ]


def expressions() -> list[tuple[str, str]]:
    """Where, and what: of the alert rules and the dashboard."""
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
    found = [(rule["alert"], rule["expr"]) for group in rules["groups"] for rule in group["rules"]]
    dashboard = json.loads(DASHBOARD.read_text())
    found += [
        (panel["title"], target["expr"])
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]
    for variable in dashboard["templating"]["list"]:
        if "definition" in variable:
            inside = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"])
            assert inside is not None
            found.append((variable["name"], f"count by ({inside[2]}) ({inside[1]})"))
    return found


def known() -> dict[str, frozenset[str]]:
    """Each series that may be asked for, with its labels."""
    names: dict[str, frozenset[str]] = {"up": frozenset()}
    for name, (row, _) in table().items():
        parts = ("_bucket", "_sum", "_count") if row.kind == "histogram" else ("",)
        names |= {name + part: row.labels for part in parts}
    text = (DEPLOY / "METRICS.md").read_text()
    names |= dict.fromkeys(re.findall(r"`(vllm:\w+)`", text), frozenset())
    return names | dict.fromkeys(CLIENTS, frozenset())


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_an_expression_asks_for_what_exists(where: str, expression: str) -> None:
    bare = STRING.sub('""', expression)
    names = set(NAME.findall(bare))
    assert names, where
    assert names <= known().keys()
    labels = OUTSIDE.union(*(known()[name] for name in names))
    for name, matchers in SELECTOR.findall(bare):
        assert set(MATCHER.findall(matchers)) <= known()[name] | OUTSIDE, where
    for group in GROUPING.findall(bare):
        assert {label.strip() for label in group.split(",")} <= labels, where


def test_the_dashboard_shows_what_it_promises() -> None:
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text())
    rows = [panel["title"] for panel in dashboard["panels"] if panel["type"] == "row"]
    assert rows == [
        *("Overview", "Queues", "Backends and engines", "Latency", "Errors", "Batches", "Savings"),
        *("HTTP", "The system"),
    ]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    sources = [v["name"] for v in dashboard["templating"]["list"] if v["type"] == "datasource"]
    assert sources == ["datasource"]
    asked = {
        json.dumps(holder["datasource"])
        for panel in dashboard["panels"]
        if panel["type"] != "row"
        for holder in (panel, *panel["targets"])
    }
    assert asked == {json.dumps({"type": "prometheus", "uid": "${datasource}"})}


def test_each_of_our_metrics_is_shown_somewhere() -> None:
    used = set().union(*(NAME.findall(STRING.sub('""', text)) for _, text in expressions()))
    used = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used}
    assert table().keys() - used == set()
