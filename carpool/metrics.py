"""The figures of every process that `/metrics` shows; deploy/METRICS.md has the table of all.

Names and units are by Prometheus's conventions. A label's values are bounded: by the routes and
settings of the operator, or by a set in the code, and never by what a client sends.
"""

from collections.abc import Callable

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

from carpool import __version__

# When a series began is of no use, and would double the counters.
disable_created_metrics()  # type: ignore[no-untyped-call]

INFO = Gauge("carpool_info", "1; the version is a label.", ["version"])
INFO.labels(__version__).set(1)
GROUP_SIZES = Histogram(
    "carpool_group_commit_size",
    "Items stored by one transaction.",
    ["group"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
)
DEGRADED = Gauge("carpool_redis_degraded", "1 while Redis cannot be reached.")
LOST_RUNS = Counter(
    "carpool_lost_runs_total",
    "Runs that the sweep of this process has found dead.",
    ["backend"],
)


def group_size(group: str) -> Callable[[int], None]:
    """What observes the group commits of one kind."""
    return GROUP_SIZES.labels(group).observe
