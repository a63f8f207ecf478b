"""Which models a server knows."""

from collections.abc import Sequence

import httpx2
import msgspec
import openai

from cli.bulk.asking import asked_once
from cli.bulk.faults import BadInput, CannotGoOn, printable

SHOWN_MODELS = 20
"""Of a server's, where an unknown one was asked for."""


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


async def require_models(client: openai.AsyncOpenAI, models: Sequence[str]) -> None:
    """Raise BadInput for one that the server does not list, if it lists any; else CannotGoOn."""
    listed = await _listed(client)
    for model in models:
        if listed and model not in listed:
            more = ", …" if len(listed) > SHOWN_MODELS else ""
            known = printable(", ".join(listed[:SHOWN_MODELS]))
            raise BadInput(f"--models: the server has no '{model}'; it has {known}{more}")


async def _listed(client: openai.AsyncOpenAI) -> list[str]:
    """None where the server has no such list."""

    async def ask() -> bytes:
        try:
            return (await client.get("/models", cast_to=httpx2.Response)).content
        except openai.NotFoundError:
            return b'{"data":[]}'

    answer = await asked_once(ask)
    try:
        return [model.id for model in msgspec.json.decode(answer, type=_Models).data]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CannotGoOn(f"the server's list of models makes no sense: {error}") from error
