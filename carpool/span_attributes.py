"""What spans tell of requests: OpenTelemetry's names (semantic conventions 1.40), and our own.

Literals, so that no process imports the conventions' package; a test holds them against it.
"""

from typing import Final

from carpool.states import Endpoint

HTTP_METHOD: Final = "http.request.method"
HTTP_ROUTE: Final = "http.route"
HTTP_STATUS: Final = "http.response.status_code"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
URL_SCHEME: Final = "url.scheme"
ERROR_TYPE: Final = "error.type"

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_STREAM: Final = "gen_ai.request.stream"
RESPONSE_MODEL: Final = "gen_ai.response.model"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITTEN_TOKENS: Final = "gen_ai.usage.cache_creation.input_tokens"

REQUEST: Final = "carpool.request.id"
TEAM: Final = "carpool.team.id"
CLASS: Final = "carpool.service_class"
RUN: Final = "carpool.run.id"
BACKEND: Final = "carpool.backend"
BATCH: Final = "carpool.batch.id"
PROVIDER_BATCH: Final = "carpool.provider_batch.id"
LINES: Final = "carpool.provider_batch.lines"
WINDOW: Final = "carpool.provider_batch.window"
EPOCH: Final = "carpool.epoch"
"""Of the claim: how often the request was claimed."""
STORED: Final = "carpool.stored"
"""Whether the answer was kept: not that of a claim that no longer stood."""

OPERATIONS: Final = {
    Endpoint.CHAT: "chat",
    Endpoint.COMPLETIONS: "text_completion",
    Endpoint.EMBEDDINGS: "embeddings",
}
