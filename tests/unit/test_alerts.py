"""The alert rules are right by promtool, fire when they should, and say what to do."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
RUNBOOK = "deploy/ALERTS.md"
PROMTOOL_SECONDS = 60


def promtool(*arguments: str) -> str:
    """What it prints; AssertionError with it where it fails."""
    done = subprocess.run(
        ["promtool", *arguments],
        cwd=PROMETHEUS,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=PROMTOOL_SECONDS,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def rules() -> list[dict[str, Any]]:
    loaded = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())
    return [rule for group in loaded["groups"] for rule in group["rules"]]


def test_the_configuration_and_the_rules_are_valid() -> None:
    assert "SUCCESS" in promtool("check", "config", "prometheus.yml")
    assert f"SUCCESS: {len(rules())} rules found" in promtool("check", "rules", "alerts.yml")


def test_each_alert_fires_when_it_should_and_not_before() -> None:
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")


def test_each_alert_is_tested_to_fire() -> None:
    tests = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    fired = {
        check["alertname"]
        for test in tests
        for check in test["alert_rule_test"]
        if check["exp_alerts"]
    }
    assert fired == {rule["alert"] for rule in rules()}


def test_each_alert_says_what_it_means_and_where_to_read_on() -> None:
    headings = re.findall(r"^## (\w+)$", (DEPLOY / "ALERTS.md").read_text(), re.M)
    assert headings == list(dict.fromkeys(headings))
    assert set(headings) == {rule["alert"] for rule in rules()}
    for rule in rules():
        annotations = rule["annotations"]
        assert set(annotations) == {"summary", "description", "runbook"}
        assert annotations["runbook"] == f"{RUNBOOK}#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_each_expression_of_the_dashboard_is_one(tmp_path: Path) -> None:
    """As Grafana fills them in."""
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "carpool.json").read_text())
    filled = [
        target["expr"].replace("$__rate_interval", "1m").replace("$model", ".*")
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]
    recorded = [
        {"record": f"panel:{place}", "expr": expression} for place, expression in enumerate(filled)
    ]
    file = tmp_path / "dashboard.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    assert f"SUCCESS: {len(filled)} rules found" in promtool("check", "rules", str(file))


def test_the_services_that_are_scraped_are_those_of_the_compose_file() -> None:
    compose = yaml.safe_load((DEPLOY / "docker-compose.yml").read_text())["services"]
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    scraped = {
        name
        for job in config["scrape_configs"]
        for found in job["dns_sd_configs"]
        for name in found["names"]
    }
    commands = {name: service.get("command") or [""] for name, service in compose.items()}
    assert scraped == {
        name for name, command in commands.items() if command[0] in ("api", "worker", "jobs")
    }
