"""Of the processes of one `carpool up`, each has a port of its own for its figures."""

from pathlib import Path

import pytest

from carpool.settings import Settings
from cli.services import jobs_service, worker_services

PORT = "CARPOOL_METRICS_PORT"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own."""
    monkeypatch.delenv(PORT, raising=False)


def ports(**settings: object) -> list[str | None]:
    """Those of the jobs process and of two workers for each of two backends."""
    made = Settings.model_validate(
        {
            "data_dir": Path("/nowhere"),
            "database_url": "postgresql://nobody@localhost/none",
            "redis_url": "redis://localhost",
            "vllm_model": "own",
            "OPENAI_API_KEY": "sk-any",
            **settings,
        }
    )
    assert len(made.backends) == 2
    services = [jobs_service(made), *worker_services(made, each=2)]
    return [(service.command.environment or {}).get(PORT) for service in services]


def test_they_count_up_from_the_one_that_is_set() -> None:
    assert ports(metrics_port=9100) == ["9100", "9101", "9102", "9103", "9104"]


def test_each_looks_for_a_free_one_itself_where_it_is_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PORT, "0")
    assert ports(metrics_port=0) == ["0"] * 5


def test_none_has_one_where_none_is_set() -> None:
    assert ports() == [None] * 5
