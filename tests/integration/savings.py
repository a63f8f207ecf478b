"""A team's ledger with known sums, and ways to ask for its savings and prices."""

import httpx

from carpool.prices import Ledger, Usage, cost
from db.keys import NewKey
from db.prices import list_prices
from tests.stack import Json, Stack

TERRA: Json = {
    "model": "gpt-6.1-terra",
    "since": "2026-11-01",
    "input": 1,
    "cached": 0.05,
    "written": 1.25,
    "output": 5,
    "long_tokens": 272_000,
    "long_input": 2,
    "long_output": 1.5,
}
USAGE = Usage(prompt=10_000, cached=8_000, written=1_000, completion=2_000)
DELTA = """
insert into deltas (
    team_id, model, backend, completed, failed, cancelled, expired, prompt_tokens, cached_tokens,
    completion_tokens, paid, saved_shared, saved_cache, saved_prefix, saved_window, saved_own
)
select k.team_id, $2, $3, $4, 0, 0, 0, $5, $6, $7, $8, $9, $10, $11, $12, $13
from keys k where k.id = $1
"""


def admin(stack: Stack) -> httpx.AsyncClient:
    """The admin API, with an admin's key."""
    return http(stack, stack.admin_key)


def http(stack: Stack, key: str) -> httpx.AsyncClient:
    """Bare HTTP from the root, for what is not under ``/v1``."""
    headers = {"authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=stack.root_url, headers=headers, timeout=30)


def refused(answer: httpx.Response, status: int = 400) -> Json:
    """The error of a refusal in OpenAI's shape."""
    assert answer.status_code == status, answer.text
    error: Json = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


async def ended(
    stack: Stack, team: NewKey, model: str, ledger: Ledger, usage: Usage = USAGE, times: int = 1
) -> None:
    """Let so many requests alike of a team have ended."""
    tokens = (usage.prompt, usage.cached, usage.completion)
    values = [times * each for each in (*tokens, *ledger.columns)]
    await stack.fetch(DELTA, team.id, model, "openai", times, *values)


async def team_name(stack: Stack, team: NewKey) -> str:
    query = "select t.name from teams t join keys k on k.team_id = t.id where k.id = $1"
    return str(await stack.value(query, team.id))


async def worked_example(stack: Stack, team: NewKey) -> None:
    """10 requests in a 24 h batch, 5 live, 3 followers, 2 hits, 4 on an own GPU, 1 unpriced."""
    async with stack.database() as database:
        price = (await list_prices(database)).at("gpt-6.1-terra")
    batch, live = cost(USAGE, price, tier=0.5), cost(USAGE, price)
    await ended(stack, team, "gpt-6.1-terra", batch, times=10)
    await ended(stack, team, "gpt-6.1-terra", live, times=5)
    await ended(stack, team, "gpt-6.1-terra", live.for_follower(), times=3)
    await ended(stack, team, "gpt-6.1-terra", live.for_hit(), times=2)
    await ended(stack, team, "assistant", cost(USAGE, price, own=True), times=4)
    await ended(stack, team, "unheard-of", cost(USAGE, None))
