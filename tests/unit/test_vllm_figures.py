"""A vLLM engine's own metrics, by the names that it gives them, are what a worker tells of it."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from carpool.engine import EngineFigures, decode_figures, encode_figures
from workers.backends.vllm_figures import read_figures


def engine_metrics(*engines: str) -> CollectorRegistry:
    """As vLLM registers them: with the model's and the engine's labels."""
    registry = CollectorRegistry()
    labels = ("model_name", "engine")
    running = Gauge("vllm:num_requests_running", "", labels, registry=registry)
    waiting = Gauge("vllm:num_requests_waiting", "", labels, registry=registry)
    usage = Gauge("vllm:kv_cache_usage_perc", "", labels, registry=registry)
    queries = Counter("vllm:prefix_cache_queries", "", labels, registry=registry)
    hits = Counter("vllm:prefix_cache_hits", "", labels, registry=registry)
    Counter("vllm:prompt_tokens", "", labels, registry=registry).labels("m", "0").inc(99)
    for place, engine in enumerate(engines):
        running.labels("m", engine).set(3)
        waiting.labels("m", engine).set(1)
        usage.labels("m", engine).set(0.25 + 0.5 * place)
        queries.labels("m", engine).inc(1000)
        hits.labels("m", engine).inc(400)
    return registry


def test_the_figures_of_one_engine() -> None:
    assert read_figures(engine_metrics("0")) == EngineFigures(
        running=3,
        waiting=1,
        kv_cache_usage=0.25,
        prefix_cache_queries=1000,
        prefix_cache_hits=400,
    )


def test_several_engines_of_a_process_are_told_together() -> None:
    assert read_figures(engine_metrics("0", "1")) == EngineFigures(
        running=6,
        waiting=2,
        kv_cache_usage=0.5,
        prefix_cache_queries=2000,
        prefix_cache_hits=800,
    )


def test_an_engine_without_statistics_tells_nothing() -> None:
    assert read_figures(CollectorRegistry()) is None
    assert read_figures(engine_metrics()) is None


def test_figures_are_the_same_after_their_way_through_the_database() -> None:
    figures = EngineFigures(kind="vllm", running=1, kv_cache_usage=0.5)
    assert decode_figures(encode_figures(figures)) == figures
    assert encode_figures(EngineFigures()) == b"{}"
