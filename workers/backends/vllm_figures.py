"""What a vLLM engine says of itself: read from the metrics that it keeps in this process."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Final

from msgspec.structs import replace
from prometheus_client import REGISTRY, CollectorRegistry

from carpool.engine import EngineFigures

RUNNING: Final = "vllm:num_requests_running"
WAITING: Final = "vllm:num_requests_waiting"
KV_CACHE_USAGE: Final = "vllm:kv_cache_usage_perc"
PREFIX_CACHE_QUERIES: Final = "vllm:prefix_cache_queries_total"
PREFIX_CACHE_HITS: Final = "vllm:prefix_cache_hits_total"
RECENT_SECONDS: Final = 60.0
_NAMES: Final = (RUNNING, WAITING, KV_CACHE_USAGE, PREFIX_CACHE_QUERIES, PREFIX_CACHE_HITS)


def read_figures(registry: CollectorRegistry = REGISTRY) -> EngineFigures | None:
    """The figures of all engines of this process together, the cache's since they were started.

    None where they keep no statistics.
    """
    found: dict[str, list[float]] = {name: [] for name in _NAMES}
    for metric in registry.restricted_registry(_NAMES).collect():
        for sample in metric.samples:
            if sample.name in found:
                found[sample.name].append(sample.value)
    if not found[RUNNING]:
        return None
    usages = found[KV_CACHE_USAGE]
    return EngineFigures(
        running=int(sum(found[RUNNING])),
        waiting=_sum(found[WAITING]),
        kv_cache_usage=sum(usages) / len(usages) if usages else None,
        prefix_cache_queries=_sum(found[PREFIX_CACHE_QUERIES]),
        prefix_cache_hits=_sum(found[PREFIX_CACHE_HITS]),
    )


class RecentFigures:
    """These at each look, but that their prefix cache's tokens are those of the last minute.

    They are counted from the last look that is older than that.
    """

    def __init__(
        self, registry: CollectorRegistry = REGISTRY, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._registry = registry
        self._now = now
        self._looks = deque([(-inf, 0, 0)])

    def look(self) -> EngineFigures | None:
        """None where the engines keep no statistics."""
        figures = read_figures(self._registry)
        if figures is None or figures.prefix_cache_queries is None:
            return figures
        queries, hits = figures.prefix_cache_queries, figures.prefix_cache_hits or 0
        self._looks.append((self._now(), queries, hits))
        while self._looks[1][0] <= self._now() - RECENT_SECONDS:
            self._looks.popleft()
        _, queries_then, hits_then = self._looks[0]
        return replace(
            figures,
            prefix_cache_queries=queries - queries_then,
            prefix_cache_hits=hits - hits_then,
        )


def _sum(values: Sequence[float]) -> int | None:
    return int(sum(values)) if values else None
