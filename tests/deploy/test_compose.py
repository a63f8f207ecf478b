"""The compose file is valid, and says nothing of Carpool that is not so."""

import json
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
import yaml

from api.server import SHUTDOWN_MARGIN_SECONDS
from carpool import __version__
from carpool.settings import Settings
from tests.deploy.commands import FIGURES, backends, parse, served, unknown, variables
from tests.deploy.files import DEPLOY, Json, compose, example_environment, image, interpolate
from workers.process import CLOSE_SECONDS

SCHEMA = files("check_jsonschema.builtin_schemas.vendor") / "compose-spec.json"
OWN = ("migrate", "api", "jobs", "worker", "worker-openai", "worker-openai-batch", "worker-gpu")
WORKERS = [name for name in OWN if name.startswith("worker")]
SECRETS = ("POSTGRES_PASSWORD", "GRAFANA_PASSWORD")
UNIT_SECONDS = {"s": 1, "m": 60}


def service(name: str) -> Json:
    found: Json = compose()["services"][name]
    return found


def built(name: str) -> str:
    """Which Dockerfile a service's image comes of."""
    file: str = service(name)["build"]["dockerfile"]
    return file.removeprefix("deploy/").removesuffix(".Dockerfile")


def seconds(text: str) -> float:
    return float(text[:-1]) * UNIT_SECONDS[text[-1]]


def test_it_is_what_the_compose_specification_says() -> None:
    jsonschema.validate(compose(), json.loads(SCHEMA.read_text()))


def test_the_schema_finds_what_is_wrong() -> None:
    wrong = compose()
    wrong["services"]["api"]["comand"] = ["api"]
    with pytest.raises(jsonschema.ValidationError, match="comand"):
        jsonschema.validate(wrong, json.loads(SCHEMA.read_text()))


@pytest.mark.parametrize("secret", SECRETS)
def test_it_does_not_start_without_a_password(secret: str) -> None:
    with pytest.raises(KeyError, match=secret):
        compose(example_environment() | {secret: ""})


def test_the_example_names_every_variable_and_no_other() -> None:
    used: set[str] = set()

    class Seen(dict[str, str]):
        def get(self, name: str, default: Any = None) -> Any:
            used.add(name)
            return example_environment().get(name, default)

    compose(Seen())
    assert used == set(example_environment())


def test_all_services_of_carpool_are_here() -> None:
    assert {
        name for name, one in compose()["services"].items() if one["image"].startswith("carpool")
    } == set(OWN)


@pytest.mark.parametrize("name", OWN)
def test_a_command_exists_with_what_it_needs(name: str) -> None:
    """The command, its variables, its mounts and its image's tag are Carpool's."""
    one = service(name)
    options = parse(one["command"])
    assert not unknown(set(one["environment"]))
    assert one["image"].endswith(f":{__version__}")
    sources = [volume.split(":")[0] for volume in one["volumes"]]
    assert all((DEPLOY / source).exists() for source in sources if source.startswith("."))
    assert {source for source in sources if not source.startswith(".")} <= set(compose()["volumes"])
    if "backend" in options:
        assert options["backend"] in backends(DEPLOY / "carpool.toml")
    settings = Settings(
        **{
            key.removeprefix("CARPOOL_").lower(): value
            for key, value in (image(built(name)).environment | one["environment"]).items()
            if key in variables() and key.startswith("CARPOOL_")
        }
    )
    assert str(settings.config) in {volume.split(":")[1] for volume in one["volumes"]}


@pytest.mark.parametrize("name", OWN)
def test_it_runs_with_no_more_rights_than_it_needs(name: str) -> None:
    one = service(name)
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert one["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", [name for name in OWN if name not in ("migrate", "api")])
def test_a_health_check_asks_what_is_answered(name: str) -> None:
    """By the API's image jobs and workers would be asked on the API's port."""
    check = service(name).get("healthcheck", {}).get("test") or [
        "CMD", *image(built(name)).healthcheck,
    ]  # fmt: skip
    assert check[0] == "CMD"
    assert "CARPOOL_METRICS_PORT" in check[-1]
    assert any(f"'{path}'" in check[-1] for path in FIGURES)


def test_the_api_is_asked_on_its_own_port() -> None:
    check = image("api").healthcheck[-1]
    assert "CARPOOL_PORT" in check
    assert "'/readyz'" in check
    assert served("/readyz")
    assert "healthcheck" not in service("api")


def test_only_this_machine_reaches_the_published_ports() -> None:
    """And each leads to a port on which the container listens."""
    published = {n: one["ports"] for n, one in compose()["services"].items() if "ports" in one}
    assert published == {
        "api": ["127.0.0.1:8000:8000"],
        "prometheus": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3000:3000"],
    }
    assert image("api").environment["CARPOOL_PORT"] == "8000"


@pytest.mark.parametrize("name", [name for name in OWN if name != "migrate"])
def test_nothing_starts_before_the_schema_is_there(name: str) -> None:
    after = service(name)["depends_on"]
    assert after["migrate"]["condition"] == "service_completed_successfully"
    assert after["redis"]["condition"] == "service_healthy"
    assert service("migrate")["depends_on"] == {"postgres": {"condition": "service_healthy"}}


@pytest.mark.parametrize("name", OWN)
def test_it_is_not_killed_while_it_drains(name: str) -> None:
    one = service(name)
    drain = float(one["environment"]["CARPOOL_DRAIN_SECONDS"])
    needed = 2 * drain + CLOSE_SECONDS if name in WORKERS else drain + SHUTDOWN_MARGIN_SECONDS
    assert seconds(one["stop_grace_period"]) >= needed


def test_what_is_compiled_can_be_loaded() -> None:
    """A tmpfs of Docker's is noexec unless it is told otherwise; the engine compiles into it."""
    assert service("worker-gpu")["tmpfs"] == ["/tmp:exec"]


def test_postgres_logs_no_row() -> None:
    assert "log_error_verbosity=terse" in service("postgres")["command"]


def test_prometheus_asks_every_process_on_its_port() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    asked = {
        name: found["port"]
        for job in config["scrape_configs"]
        for found in job["dns_sd_configs"]
        for name in found["names"]
    }
    environment = image("api").environment
    assert asked == {
        name: int(environment["CARPOOL_PORT" if name == "api" else "CARPOOL_METRICS_PORT"])
        for name in OWN
        if name != "migrate"
    }


def test_what_prometheus_and_grafana_read_exists() -> None:
    for name in ("prometheus", "grafana"):
        for volume in service(name)["volumes"]:
            source = volume.split(":")[0]
            if source.startswith("."):
                assert any((DEPLOY / source).iterdir())
    folder = DEPLOY / "prometheus"
    config = yaml.safe_load((folder / "prometheus.yml").read_text())
    assert all((folder / rules).is_file() for rules in config["rule_files"])
    provided = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/carpool.yml").read_text())[
        "providers"
    ]
    mounts = dict(volume.split(":")[:2][::-1] for volume in service("grafana")["volumes"])
    for provider in provided:
        assert list((DEPLOY / mounts[provider["options"]["path"]]).glob("*.json"))


def test_substitution_is_composes() -> None:
    given = {"SET": "x", "EMPTY": ""}
    assert interpolate("${SET:-d} ${EMPTY:-d} ${MISSING:-d} ${SET}", given) == "x d d x"
    with pytest.raises(KeyError):
        interpolate("${EMPTY:?say}", given)
