"""What a vLLM engine says of itself: read from the metrics that it keeps in this process."""

from collections.abc import Sequence
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry

from carpool.engine import EngineFigures

RUNNING: Final = "vllm:num_requests_running"
WAITING: Final = "vllm:num_requests_waiting"
KV_CACHE_USAGE: Final = "vllm:kv_cache_usage_perc"
PREFIX_CACHE_QUERIES: Final = "vllm:prefix_cache_queries_total"
PREFIX_CACHE_HITS: Final = "vllm:prefix_cache_hits_total"
_NAMES: Final = (RUNNING, WAITING, KV_CACHE_USAGE, PREFIX_CACHE_QUERIES, PREFIX_CACHE_HITS)


def read_figures(registry: CollectorRegistry = REGISTRY) -> EngineFigures | None:
    """The figures of all engines of this process together; None where they keep no statistics."""
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


def _sum(values: Sequence[float]) -> int | None:
    return int(sum(values)) if values else None
