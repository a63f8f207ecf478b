"""Whether the process lives, whether it can serve, and its figures."""

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from api import metrics
from api.queue_metrics import QueueMetrics
from api.responses import JSON
from api.services import Services
from carpool.metrics import DEGRADED
from db.database import DatabaseAway


async def healthz(request: Request) -> Response:
    """The process lives."""
    return JSON({"status": "ok"})


async def readyz(request: Request) -> Response:
    """503 without Postgres; without Redis it is degraded, and still ready."""
    services: Services = request.app.state.services
    try:
        await services.database.fetch("select 1")
    except DatabaseAway:
        return JSON({"status": "unavailable", "postgres": "away"}, 503)
    reached = await services.doorbell.ping()
    return JSON(
        {
            "status": "ok" if reached else "degraded",
            "postgres": "ok",
            "redis": "ok" if reached else "away",
        }
    )


async def show_metrics(request: Request) -> Response:
    """Prometheus's text format."""
    services: Services = request.app.state.services
    metrics.WAITING.set(len(services.waiting))
    DEGRADED.set(0 if services.doorbell.healthy else 1)
    await services.queue_metrics.read()
    text = await run_in_threadpool(_shown, services.queue_metrics)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


def _shown(queue_metrics: QueueMetrics) -> bytes:
    return generate_latest() + generate_latest(queue_metrics.registry)
