"""What a whole stack costs while it has nothing to do."""

import time

import psutil

from tests.benchmarks.cpu import tree_seconds

SETTLE_SECONDS = 8.0
WINDOW_SECONDS = 20.0


def idle_percent(root: psutil.Process) -> float:
    """CPU of a process and all below it over the window, in percent of one core."""
    time.sleep(SETTLE_SECONDS)
    before, began = tree_seconds(root), time.monotonic()
    time.sleep(WINDOW_SECONDS)
    return 100 * (tree_seconds(root) - before) / (time.monotonic() - began)
