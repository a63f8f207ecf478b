"""Who uses the processor: a tree of processes, and everyone else."""

import psutil


def tree_seconds(root: psutil.Process) -> float:
    """CPU of a process and all below it so far; what ended (an autovacuum) is in its parent's."""
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


class Bystanders:
    """What other people's processes use while a measurement runs: it slows what is measured."""

    def __init__(self) -> None:
        self._own = psutil.Process()
        self._before = self._now()

    def percent(self) -> float:
        """Of all cores together, since the beginning; 100 is a machine that others fill."""
        passed, busy, own = (
            now - before for now, before in zip(self._now(), self._before, strict=True)
        )
        return max(0.0, 100 * (busy - own) / passed) if passed else 0.0

    def _now(self) -> tuple[float, float, float]:
        """Seconds of all cores: those that passed, those that were used, and our own of these."""
        times = psutil.cpu_times()
        passed = times.user + times.system + times.idle + times.iowait + times.irq + times.softirq
        busy = passed - times.idle - times.iowait
        return passed, busy, tree_seconds(self._own)
