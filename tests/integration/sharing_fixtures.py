"""A stack whose provider is the double, where identical requests are computed once."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from db.keys import NewKey
from tests.stack import Stack, stack_in_temporary_directory

CONFIG = """
[backends.provider]
kind = "openai"
base_url = "{url}"
models = []

[backends.own]
kind = "simulated"

[models.house]
backends = ["provider"]
upstream = "gpt-6-luna"

[models.kept]
backends = ["provider"]
upstream = "gpt-6-luna"
cache_seconds = 600

[models.slow]
backends = ["own"]
upstream = "simulated"

[[models.later.legs]]
backend = "provider"
after_seconds = 86400

[[prices]]
model = "gpt-6-luna"
since = 2026-01-01
input = 0.10
output = 0.50
"""


@pytest.fixture(scope="module")
def config(served: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("sharing") / "carpool.toml"
    path.write_text(CONFIG.format(url=served))
    return path


@pytest.fixture(scope="module")
def sharing(config: Path) -> Iterator[Stack]:
    """A stack with the double as its provider."""
    with stack_in_temporary_directory(options=("--config", str(config))) as stack:
        yield stack


@pytest.fixture
async def key(sharing: Stack, request: pytest.FixtureRequest) -> NewKey:
    return await sharing.new_key(request.node.nodeid)


@pytest.fixture
async def http(sharing: Stack, key: NewKey) -> AsyncIterator[httpx.AsyncClient]:
    async with sharing.http(key.secret) as client:
        yield client
