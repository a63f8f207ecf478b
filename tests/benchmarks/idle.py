"""What a whole stack costs while it has nothing to do."""

import time

import psutil

SETTLE_SECONDS = 8.0
WINDOW_SECONDS = 20.0


def idle_percent(root: psutil.Process) -> float:
    """CPU of a process and all below it over the window, in percent of one core."""
    time.sleep(SETTLE_SECONDS)
    before, began = _cpu_seconds(root), time.monotonic()
    time.sleep(WINDOW_SECONDS)
    return 100 * (_cpu_seconds(root) - before) / (time.monotonic() - began)


def _cpu_seconds(root: psutil.Process) -> float:
    """All that was used so far; what ended since (an autovacuum) counts with its parent."""
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        times = process.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total
