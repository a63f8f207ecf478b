"""In which order models take turns, so that none gets the quieter machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

MOST_ROUNDS = 20
BLOCK_WAVES = 4
"""How often each lane works in a block that is long enough: the end of a block, where lanes run out
of work one by one, should weigh little."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A stretch of the workload that one model does with nothing beside it."""

    number: int
    """0-based."""
    model: str
    begin: int
    end: int
    """Of the requests, half-open."""


def take_turns(models: Sequence[str], requests: int, concurrency: int) -> list[Block]:
    """All blocks in their order. Each model does each request once, and is as often first, second,
    … in a round as any other, unless there are too few requests for more than one round."""
    rounds = round_count(len(models), requests, concurrency)
    borders = [requests * number // rounds for number in range(rounds + 1)]
    blocks: list[Block] = []
    for number, (begin, end) in enumerate(pairwise(borders)):
        first = number % len(models)
        for model in (*models[first:], *models[:first]):
            blocks.append(Block(number=len(blocks), model=model, begin=begin, end=end))
    return blocks


def round_count(models: int, requests: int, concurrency: int) -> int:
    """A multiple of the number of models, or 1; no block is smaller than the concurrency then."""
    rounds = min(MOST_ROUNDS, requests // (concurrency * BLOCK_WAVES))
    if rounds < models:
        rounds = min(models, requests // concurrency)
    return max(1, rounds - rounds % models)
