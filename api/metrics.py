"""What `/metrics` shows of HTTP; those of the queue are in :mod:`api.queue_families`."""

from functools import cache

from prometheus_client import Counter, Gauge, Histogram

from carpool.error_codes import counted

REQUESTS = Counter(
    "carpool_http_requests_total", "Answers of the API.", ["path", "method", "status"]
)
SECONDS = Histogram(
    "carpool_http_request_duration_seconds",
    "From a request's first byte to its answer's last.",
    ["path"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 2.5, 10, 30, 120, 600),
)
ERRORS = Counter("carpool_http_errors_total", "Requests that the API itself has refused.", ["code"])
WAITING = Gauge("carpool_waiting_connections", "Requests that a connection waits for.")

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"
"""A path without a route, or a method that is none of HTTP's usual."""

# Looked up once: the paths are those of the routes, so that there are few.
_requests = cache(REQUESTS.labels)
_seconds = cache(SECONDS.labels)


def answered(path: str, method: str, status: int, seconds: float) -> None:
    """Count an answer; ``path`` is its route's template."""
    _requests(path, method if method in METHODS else OTHER, status).inc()
    _seconds(path).observe(seconds)


def refused(code: str | None) -> None:
    """Count an error that the API itself answers with."""
    ERRORS.labels(counted(code)).inc()
