"""What passes is waited for and said once; what lasts is told at once."""

import httpx2
import openai
import pytest

from cli.bulk.asking import (
    GIVE_UP_SECONDS,
    MAX_DELAY_SECONDS,
    Asking,
    asked_once,
    described,
    passing,
    wished_seconds,
)
from cli.bulk.faults import BadInput, CannotGoOn

REQUEST = httpx2.Request("GET", "http://gpu.example/v1/batches")
AWAY = openai.APIConnectionError(request=REQUEST)


def status_error(status: int, message: str = "No.", **headers: str) -> openai.APIStatusError:
    response = httpx2.Response(
        status,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        json={"error": {"message": message}},
        request=REQUEST,
    )
    client = openai.OpenAI(api_key="sk-secret", base_url="http://gpu.example/v1")
    return client._make_status_error_from_response(response)


class Outage:
    """A server that fails a number of times, and a clock that only a sleep moves."""

    def __init__(self, times: float, error: openai.OpenAIError = AWAY) -> None:
        self.left = times
        self.error = error
        self.now = 0.0
        self.said: list[str] = []
        self.slept: list[float] = []
        self.asking = Asking(self.said.append, clock=lambda: self.now, sleep=self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    async def answer(self) -> str:
        if self.left > 0:
            self.left -= 1
            raise self.error
        return "answer"


async def test_an_outage_is_waited_for_and_said_once() -> None:
    outage = Outage(6)
    assert await outage.asking(outage.answer) == "answer"
    assert outage.said == [
        "The server at gpu.example is away. Trying again for up to 10 min.",
        "The server answers again.",
    ]
    assert outage.slept == sorted(outage.slept)
    assert max(outage.slept) == MAX_DELAY_SECONDS


async def test_an_outage_that_lasts_ends_it() -> None:
    outage = Outage(float("inf"))
    with pytest.raises(CannotGoOn, match=r"gpu\.example is away"):
        await outage.asking(outage.answer)
    assert GIVE_UP_SECONDS <= outage.now <= GIVE_UP_SECONDS + MAX_DELAY_SECONDS


async def test_outages_apart_are_not_added_up() -> None:
    outage = Outage(0)
    for _ in range(100):
        outage.left = 6
        assert await outage.asking(outage.answer) == "answer"
    assert outage.now > GIVE_UP_SECONDS


async def test_a_wish_of_the_server_is_respected() -> None:
    outage = Outage(1, status_error(429, retry_after="30"))
    await outage.asking(outage.answer)
    assert outage.slept == [30]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422])
async def test_what_lasts_is_told_at_once(status: int) -> None:
    outage = Outage(2, status_error(status, "Not so."))
    kind = BadInput if status in {400, 413, 422} else CannotGoOn
    for ask in (outage.asking, asked_once):
        with pytest.raises(kind, match=rf"The server says {status}: Not so\."):
            await ask(outage.answer)
    assert outage.slept == []


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (AWAY, True),
        (openai.APITimeoutError(request=REQUEST), True),
        (status_error(408), True),
        (status_error(429), True),
        (status_error(503), True),
        (status_error(500, x_should_retry="false"), False),
        (status_error(409, x_should_retry="true"), True),
        (status_error(429, x_should_retry="false"), False),
        (openai.OpenAIError("odd"), False),
    ],
)
def test_what_passes_is_told_from_what_lasts(error: openai.OpenAIError, passes: bool) -> None:
    assert passing(error) is passes


@pytest.mark.parametrize(
    ("value", "seconds"), [("3", 3), ("0", 0), ("-1", 0), ("999", 0), ("soon", 0), ("nan", 0)]
)
def test_wishes_are_bounded(value: str, seconds: float) -> None:
    assert wished_seconds(status_error(503, retry_after=value)) == seconds


async def test_once_is_once() -> None:
    outage = Outage(1)
    with pytest.raises(CannotGoOn, match="is away"):
        await asked_once(outage.answer)
    assert await asked_once(outage.answer) == "answer"


def test_descriptions_are_fit_for_a_terminal_and_tell_no_key() -> None:
    told = described(status_error(400, "a\x1b[2Jb"))
    assert told == "The server says 400: a\\x1b[2Jb"
    assert "sk-secret" not in described(AWAY)
    assert "does not answer in time" in described(openai.APITimeoutError(request=REQUEST))
