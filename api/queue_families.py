"""The metrics of the whole system: what each is named, and how it comes of what was read."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from carpool.prices import COLUMNS, NANODOLLARS
from carpool.states import BatchStatus, ServiceClass
from db.depths import Depths
from db.figures import Ended, Standing

PAID, MEANS = COLUMNS[0], COLUMNS[1:]
OUTCOMES = Ended._fields[1:5]
PROCESS_KINDS = ("api", "worker", "jobs")
PROCESS_STATES = ("live", "paused")


class Family(NamedTuple):
    """A metric as Prometheus knows it."""

    name: str
    kind: Literal["gauge", "counter"]
    text: str
    labels: tuple[str, ...] = ()


UP: Final = Family("carpool_database_up", "gauge", "1 where this scrape has read the database.")
COUNTED: Final = Family(
    "carpool_queue_counted_timestamp_seconds",
    "gauge",
    "When the queue and the batches were counted.",
)
WAITING: Final = Family(
    "carpool_queue_waiting_requests",
    "gauge",
    "Requests that wait, those that back off or follow another included.",
    ("model", "class"),
)
IN_FLIGHT: Final = Family(
    "carpool_queue_in_flight_requests",
    "gauge",
    "Requests that a run or a provider batch owns.",
    ("model", "class"),
)
OLDEST: Final = Family(
    "carpool_queue_oldest_wait_seconds",
    "gauge",
    "Age of the oldest request that waits; 0 where none does.",
    ("model", "class"),
)
MODEL_BACKENDS: Final = Family(
    "carpool_model_live_backends",
    "gauge",
    "Backends with a run that takes requests, of those that the model's route leads to.",
    ("model",),
)
RUNS: Final = Family(
    "carpool_backend_runs",
    "gauge",
    "Live runs, by whether they take requests.",
    ("backend", "state"),
)
HELD: Final = Family(
    "carpool_backend_in_flight_requests",
    "gauge",
    "Requests that its live runs hold.",
    ("backend",),
)
CAPACITY: Final = Family(
    "carpool_backend_capacity_requests", "gauge", "How many its live runs can hold.", ("backend",)
)
PAUSED: Final = Family(
    "carpool_backend_pause_seconds",
    "gauge",
    "How long the provider has asked not to be sent a model's requests, from now.",
    ("backend", "upstream"),
)
PROCESSES: Final = Family(
    "carpool_processes", "gauge", "Processes that live; 0 where none does.", ("kind", "state")
)
BATCHES: Final = Family("carpool_batches", "gauge", "Batches, by their status.", ("status",))
LINES: Final = Family(
    "carpool_batch_lines_left", "gauge", "Lines of open batches that have not ended."
)
LATE: Final = Family(
    "carpool_batches_near_expiry",
    "gauge",
    "Open batches with less than a tenth of their window left.",
)
EXPIRY: Final = Family(
    "carpool_batch_earliest_expiry_timestamp_seconds",
    "gauge",
    "When the first of the open batches expires; absent where none is open.",
)
PARTITIONS: Final = Family(
    "carpool_partitions_ahead_days",
    "gauge",
    "For how many days from now there are partitions.",
)
ENDED: Final = Family(
    "carpool_requests_ended_total",
    "counter",
    "Requests that have ended, batches' lines included.",
    ("model", "outcome"),
)
SPENT: Final = Family(
    "carpool_paid_dollars_total", "counter", "What answers have cost.", ("model",)
)
# No counter: an own backend that costs more than the list price saves less than nothing.
SAVED: Final = Family(
    "carpool_saved_dollars",
    "gauge",
    "What answers would have cost more, live and at list price, by what saved it.",
    ("model", "means"),
)
ALWAYS: Final = (UP,)
OF_STANDING: Final = (
    *(MODEL_BACKENDS, RUNS, HELD, CAPACITY, PAUSED, PROCESSES, LINES, LATE, EXPIRY, PARTITIONS),
    *(ENDED, SPENT, SAVED),
)
OF_COUNT: Final = (COUNTED, WAITING, IN_FLIGHT, OLDEST, BATCHES)
FAMILIES: Final = (*ALWAYS, *OF_STANDING, *OF_COUNT)

Sample = tuple[tuple[str, ...], float]


def of_database(*, up: bool) -> Iterator[Metric]:
    """Whether there are others."""
    yield _family(UP, [((), float(up))])


def of_standing(standing: Standing, past: Sequence[Ended]) -> Iterator[Metric]:
    """Those of `OF_STANDING`; ``past`` are the requests that ended before those of ``standing``."""
    accepting = {runs.backend for runs in standing.runs if runs.accepting and runs.runs}
    models: dict[str, int] = {}
    for model, backend in standing.served:
        models[model] = models.get(model, 0) + (backend in accepting)
    yield _family(MODEL_BACKENDS, (((model,), number) for model, number in models.items()))
    backends = {backend for _, backend in standing.served if backend is not None}
    backends |= {runs.backend for runs in standing.runs}
    states = {(runs.backend, runs.accepting): runs for runs in standing.runs}
    yield _family(
        RUNS,
        (
            ((backend, state), states[backend, takes].runs if (backend, takes) in states else 0)
            for backend in sorted(backends)
            for takes, state in ((True, "accepting"), (False, "refusing"))
        ),
    )
    for family, field in ((HELD, "in_flight"), (CAPACITY, "capacity")):
        sums = dict.fromkeys(sorted(backends), 0)
        for runs in standing.runs:
            sums[runs.backend] += getattr(runs, field)
        yield _family(family, (((backend,), number) for backend, number in sums.items()))
    yield _family(PAUSED, (((name, model), left) for name, model, left in standing.pauses))
    processes = {(kind, state): 0 for kind in PROCESS_KINDS for state in PROCESS_STATES}
    for kind, paused, number in standing.processes:
        processes[kind, PROCESS_STATES[paused]] = number
    yield _family(PROCESSES, processes.items())
    yield _family(LINES, [((), standing.batch_lines)])
    yield _family(LATE, [((), standing.late_batches)])
    yield _family(EXPIRY, _present(standing.batch_expiry))
    yield _family(PARTITIONS, _present(standing.partition_days))
    yield from _of_ended(models, (*past, *standing.ended))


def _of_ended(models: Iterable[str], found: Iterable[Ended]) -> Iterator[Metric]:
    """Of models with a route from 0 on, so that the first failure is a growth."""
    sums = {model: Ended(model) for model in models}
    for ended in found:
        sums[ended.model] = sums.get(ended.model, Ended(ended.model)).plus(ended)
    yield _family(
        ENDED,
        (
            ((model, outcome), getattr(ended, outcome))
            for model, ended in sums.items()
            for outcome in OUTCOMES
        ),
    )
    yield _family(
        SPENT,
        (((model,), getattr(ended.ledger, PAID) / NANODOLLARS) for model, ended in sums.items()),
    )
    yield _family(
        SAVED,
        (
            ((model, means.removeprefix("saved_")), getattr(ended.ledger, means) / NANODOLLARS)
            for model, ended in sums.items()
            for means in MEANS
        ),
    )


def of_count(
    depths: Depths, batches: Mapping[BatchStatus, int], models: Iterable[str]
) -> Iterator[Metric]:
    """Those of `OF_COUNT`.

    Of ``models`` one that has nothing queued is shown with zeros, for so it was counted.
    """
    yield _family(COUNTED, [((), depths.counted_at.timestamp())])
    cells = {(model, one): (0, 0, 0.0) for model in sorted(models) for one in ServiceClass}
    for depth in depths.rows:
        key = (depth.model, depth.service_class)
        waiting, in_flight, oldest = cells.get(key, (0, 0, 0.0))
        cells[key] = (
            waiting + depth.waiting,
            in_flight + depth.in_flight,
            max(oldest, depth.age_seconds(depths.counted_at.timestamp())),
        )
    for place, family in enumerate((WAITING, IN_FLIGHT, OLDEST)):
        yield _family(
            family,
            (
                ((model, service_class.name.lower()), cell[place])
                for (model, service_class), cell in cells.items()
            ),
        )
    yield _family(
        BATCHES, (((status.name.lower(),), batches.get(status, 0)) for status in BatchStatus)
    )


def _present(value: float | None) -> list[Sample]:
    return [] if value is None else [((), value)]


def _family(family: Family, samples: Iterable[Sample]) -> Metric:
    make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    made = make(family.name, family.text, labels=family.labels)
    for labels, value in samples:
        made.add_metric(labels, value)
    return made
