"""Each model does each request once, and none has a better place than another."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from cli.bench.turns import round_count, take_turns

NAMES = st.integers(2, 5).map(lambda count: [f"m{number}" for number in range(count)])
REQUESTS = st.integers(1, 3000)
CONCURRENCY = st.integers(1, 64)


@given(NAMES, REQUESTS, CONCURRENCY)
def test_each_model_does_each_request_once(
    models: list[str], requests: int, concurrency: int
) -> None:
    blocks = take_turns(models, requests, concurrency)
    assert [block.number for block in blocks] == list(range(len(blocks)))
    for model in models:
        done = [n for b in blocks if b.model == model for n in range(b.begin, b.end)]
        assert done == list(range(requests))


@given(NAMES, REQUESTS, CONCURRENCY)
def test_all_models_do_a_stretch_before_the_next_begins(
    models: list[str], requests: int, concurrency: int
) -> None:
    blocks = take_turns(models, requests, concurrency)
    for begin in range(0, len(blocks), len(models)):
        turn = blocks[begin : begin + len(models)]
        assert {block.model for block in turn} == set(models)
        assert len({(block.begin, block.end) for block in turn}) == 1


@given(NAMES, REQUESTS, CONCURRENCY)
def test_each_model_is_as_often_first_as_any_other(
    models: list[str], requests: int, concurrency: int
) -> None:
    blocks = take_turns(models, requests, concurrency)
    rounds = round_count(len(models), requests, concurrency)
    assert len(blocks) == rounds * len(models)
    for place in range(len(models)):
        counts = Counter(block.model for block in blocks[place :: len(models)])
        assert rounds == 1 or set(counts.values()) == {rounds // len(models)}


@given(NAMES, REQUESTS, CONCURRENCY)
def test_a_block_keeps_all_lanes_busy_where_there_is_enough_to_do(
    models: list[str], requests: int, concurrency: int
) -> None:
    least = min(block.end - block.begin for block in take_turns(models, requests, concurrency))
    assert least >= min(requests, concurrency)


def test_the_usual_workload_is_cut_into_turns() -> None:
    assert round_count(2, 200, 8) == 6
    assert round_count(2, 16, 8) == 2
    assert round_count(2, 15, 8) == 1
    assert round_count(3, 100_000, 8) == 18
