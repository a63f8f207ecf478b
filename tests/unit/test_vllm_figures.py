"""A vLLM engine's own metrics, by the names that it gives them, are what a worker tells of it."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from carpool.engine import EngineFigures, decode_figures, encode_figures
from workers.backends.vllm_figures import RECENT_SECONDS, RecentFigures, read_figures


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


class Engine:
    """An engine whose prefix cache is asked as a test likes, on a clock that it turns."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        Gauge("vllm:num_requests_running", "", registry=registry)
        self._queries = Counter("vllm:prefix_cache_queries", "", registry=registry)
        self._hits = Counter("vllm:prefix_cache_hits", "", registry=registry)
        self._figures = RecentFigures(registry, lambda: self.seconds)
        self.seconds = 1000.0

    def ask(self, tokens: int, *, cached: int) -> None:
        self._queries.inc(tokens)
        self._hits.inc(cached)

    def look(self) -> tuple[int | None, int | None]:
        """How many tokens of its cache were asked for of late, and found."""
        figures = self._figures.look()
        assert figures is not None
        return figures.prefix_cache_queries, figures.prefix_cache_hits


def test_the_prefix_cache_is_told_of_the_last_minute_alone() -> None:
    engine = Engine()
    engine.ask(1000, cached=900)
    assert engine.look() == (1000, 900)
    looks = []
    for _ in range(14):
        engine.seconds += 5
        engine.ask(10, cached=1)
        looks.append(engine.look())
    assert looks[10] == (1110, 911)
    assert looks[-1] == (RECENT_SECONDS / 5 * 10, RECENT_SECONDS / 5)
    engine.seconds += RECENT_SECONDS
    engine.look()
    engine.seconds += RECENT_SECONDS
    assert engine.look() == (0, 0)


def test_what_was_asked_between_two_late_looks_is_told() -> None:
    """A run that ended and another that begins look at the same engine."""
    engine = Engine()
    engine.look()
    engine.seconds += 10 * RECENT_SECONDS
    engine.ask(100, cached=50)
    assert engine.look() == (100, 50)


def test_figures_are_the_same_after_their_way_through_the_database() -> None:
    figures = EngineFigures(kind="vllm", running=1, kv_cache_usage=0.5)
    assert decode_figures(encode_figures(figures)) == figures
    assert encode_figures(EngineFigures()) == b"{}"
