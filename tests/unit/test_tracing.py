"""Traceparents are read as W3C says, and spans have OpenTelemetry's names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.semconv.attributes import (
    error_attributes,
    http_attributes,
    server_attributes,
    url_attributes,
)

from api.traces import PATHS
from carpool import span_attributes as names
from carpool import tracing
from carpool.states import Endpoint
from carpool.tracing import Kind, Parent, parse, wanted
from workers.provider_address import address

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{SPAN}-01"
PARENT = Parent(int(TRACE, 16), int(SPAN, 16), 1)
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
CONVENTIONS = {
    names.HTTP_METHOD: http_attributes.HTTP_REQUEST_METHOD,
    names.HTTP_ROUTE: http_attributes.HTTP_ROUTE,
    names.HTTP_STATUS: http_attributes.HTTP_RESPONSE_STATUS_CODE,
    names.SERVER_ADDRESS: server_attributes.SERVER_ADDRESS,
    names.SERVER_PORT: server_attributes.SERVER_PORT,
    names.URL_SCHEME: url_attributes.URL_SCHEME,
    names.ERROR_TYPE: error_attributes.ERROR_TYPE,
    names.OPERATION: gen_ai.GEN_AI_OPERATION_NAME,
    names.PROVIDER: gen_ai.GEN_AI_PROVIDER_NAME,
    names.REQUEST_MODEL: gen_ai.GEN_AI_REQUEST_MODEL,
    names.REQUEST_STREAM: gen_ai.GEN_AI_REQUEST_STREAM,
    names.RESPONSE_MODEL: gen_ai.GEN_AI_RESPONSE_MODEL,
    names.INPUT_TOKENS: gen_ai.GEN_AI_USAGE_INPUT_TOKENS,
    names.OUTPUT_TOKENS: gen_ai.GEN_AI_USAGE_OUTPUT_TOKENS,
    names.CACHE_READ_TOKENS: gen_ai.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS,
    names.CACHE_WRITTEN_TOKENS: gen_ai.GEN_AI_USAGE_CACHE_CREATION_INPUT_TOKENS,
}


def test_names_are_those_of_the_conventions() -> None:
    """And every name that is not our own is among them."""
    assert all(ours == theirs for ours, theirs in CONVENTIONS.items())
    told = {value for name, value in vars(names).items() if name.isupper() and name != "OPERATIONS"}
    assert {name for name in told if not name.startswith("carpool.")} == CONVENTIONS.keys()


def test_each_endpoint_has_an_operation_of_the_conventions() -> None:
    operations = {value.value for value in gen_ai.GenAiOperationNameValues}
    assert names.OPERATIONS.keys() == set(Endpoint)
    assert set(names.OPERATIONS.values()) <= operations


@pytest.mark.parametrize(
    "text", [VALID, f" {VALID}\t", f"01-{TRACE}-{SPAN}-01-more", f"cc-{VALID[3:]}"]
)
def test_a_traceparent_is_read(text: str) -> None:
    """Of a later version, too, what the first one says."""
    assert parse(text) == PARENT


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        VALID.upper(),
        f"{VALID}-more",
        f"ff-{VALID[3:]}",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        VALID[:-1],
        VALID + "\n" + VALID,
        f"01-{TRACE}-{SPAN}-01-" + "x" * 600,
    ],
)
def test_what_is_no_traceparent_is_none(text: str | None) -> None:
    assert parse(text) is None


@given(st.text(max_size=80))
def test_any_text_is_read_or_none(text: str) -> None:
    found = parse(text)
    assert found is None or (found.trace and found.span)


@pytest.mark.parametrize(
    ("environment", "on"),
    [
        ({}, False),
        ({ENDPOINT: ""}, False),
        ({ENDPOINT: "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({ENDPOINT: "http://collector:4318", "OTEL_SDK_DISABLED": "True"}, False),
        ({ENDPOINT: "http://collector:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_traces_are_on_where_a_receiver_is_named(environment: dict[str, str], on: bool) -> None:
    assert wanted(environment) is on


def test_while_off_a_span_is_nothing() -> None:
    """One object for all, which says nothing to others."""
    span = tracing.span("x", {}, kind=Kind.SERVER, parent=VALID)
    assert span is tracing.current() is tracing.NO_SPAN
    with span as entered:
        assert entered is span
        assert tracing.headers() == tracing.ids() == {}
    assert span.traceparent is None


@pytest.mark.parametrize(
    ("url", "where"),
    [
        (None, ("api.openai.com", 443)),
        ("https://user:secret@gpu.example/v1?key=secret", ("gpu.example", 443)),
        ("http://[::1]:8001/v1", ("::1", 8001)),
        ("http://gpu/v1", ("gpu", 80)),
    ],
)
def test_of_a_url_the_address_alone_is_told(url: str | None, where: tuple[str, int]) -> None:
    assert tuple(address(url).values()) == where


def test_probes_and_pages_have_no_trace() -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/dashboard"):
        assert not path.startswith(PATHS)
