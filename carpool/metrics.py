"""The figures that `/metrics` shows; names and units by Prometheus's conventions."""

from prometheus_client import Counter, Gauge, Histogram

HTTP_REQUESTS = Counter(
    "carpool_http_requests_total", "Answers of the API.", ["path", "method", "status"]
)
HTTP_SECONDS = Histogram(
    "carpool_http_request_duration_seconds",
    "From a request's first byte to its answer's last.",
    ["path"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 2.5, 10, 30, 120, 600),
)
GROUP_SIZES = Histogram(
    "carpool_group_commit_size",
    "Items stored by one transaction.",
    ["group"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
)
WAITING = Gauge("carpool_waiting_connections", "Requests that a connection waits for.")
DEGRADED = Gauge("carpool_redis_degraded", "1 while Redis cannot be reached.")


def group_size(group: str, size: int) -> None:
    """Observe one group commit."""
    GROUP_SIZES.labels(group).observe(size)
