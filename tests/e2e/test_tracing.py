"""Traces from the service to a collector; without tracing nothing of OpenTelemetry is loaded."""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dev.ports import free_port
from tests.collector import Collector, collecting
from tests.e2e.service import RunningService, Start, run
from tests.integration.users import ADA, URL
from tests.issuer import Issuer, ec_key
from tests.waiting import eventually

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
SERVER, CLIENT = 2, 3  # SpanKind of the protocol
LIMITED = {
    "RATE_LIMIT_WRITES": "1000/minute",
    "RATE_LIMIT_SUBJECT_HEADER": "X-Subject",
    "TRUSTED_PROXIES": "127.0.0.1",
}
EXPORTER = "OTEL_TRACES_EXPORTER"
QUICKLY = {"OTEL_BSP_SCHEDULE_DELAY": "100", "WEB_CONCURRENCY": "1"}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as started:
        yield started


@pytest.fixture
def traced(start: Start, collector: Collector) -> Iterator[RunningService]:
    switch = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "LOG_FORMAT": "json"}
    with start(**QUICKLY, **LIMITED, **switch) as started:
        yield started


def test_request_is_one_trace_with_http_sql_and_redis(
    traced: RunningService, collector: Collector
) -> None:
    httpx.get(traced.url + URL)  # creates the generation
    httpx.post(traced.url + URL, json=ADA)
    answer = httpx.get(traced.url + URL, headers=TRACEPARENT)
    assert answer.headers["X-Cache"] == "MISS"
    eventually(lambda: len(collector.trace(TRACE)) == 4)
    spans = collector.trace(TRACE)
    (server,) = [span for span in spans if span.kind == SERVER]
    assert Counter(
        (span.kind, span.parent_id, span.attributes.get("db.system"), span.name) for span in spans
    ) == {
        (SERVER, PARENT, None, f"GET {URL}"): 1,
        (CLIENT, server.span_id, "redis", "EVALSHA"): 2,
        (CLIENT, server.span_id, "postgresql", "SELECT"): 1,
    }
    assert {span.service for span in spans} == {"user-service"}
    (statement,) = [span for span in spans if span.name == "SELECT"]
    assert "FROM users" in statement.attributes["db.statement"]
    assert answer.headers["traceresponse"] == f"00-{TRACE}-{server.span_id}-01"
    (line,) = [
        line
        for line in map(json.loads, traced.log.splitlines())
        if line["request_id"] == answer.headers["X-Request-ID"]
    ]
    assert (line["trace_id"], line["span_id"]) == (TRACE, server.span_id)


def test_server_span_names_the_principal_and_no_span_has_the_token(
    start: Start, collector: Collector, tmp_path: Path
) -> None:
    issuer = Issuer(ec_key("ec"))
    switch = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    with start(**QUICKLY, **switch, **issuer.settings(tmp_path / "keys.json")) as service:
        token = issuer.token()
        headers = TRACEPARENT | {"Authorization": f"Bearer {token}"}
        assert httpx.get(service.url + URL, headers=headers).status_code == 200
        eventually(lambda: any(span.kind == SERVER for span in collector.trace(TRACE)))
    (server,) = [span for span in collector.trace(TRACE) if span.kind == SERVER]
    assert f"principal={server.attributes['enduser.pseudo.id']}" in service.log
    assert [span for span in collector.spans if token in span.text] == []


def test_no_span_contains_input_or_a_secret(
    traced: RunningService, collector: Collector, environment: dict[str, str]
) -> None:
    ada = {"username": "lovelace", "email": "countess@example.com"}
    subject = {"X-Subject": "name-of-the-client"}
    with httpx.Client(base_url=traced.url, headers=TRACEPARENT | subject) as http:
        key = {"Idempotency-Key": "secret-of-the-client"}
        assert http.post(URL, json=ada, headers=key).status_code == 201
        assert http.post(URL, json=ada).status_code == 409
        assert http.get(URL, params={"email": "countess@example.com"}).status_code == 200
        assert http.get(URL, params={"q": "lovel"}).status_code == 200
        assert http.get(f"{URL}/countess@example.com").status_code == 404
        assert http.patch(f"{URL}/1", json={"username": "lovelace2"}).status_code == 200
        assert http.get(f"{URL}/1").status_code == 200
    eventually(lambda: sum(span.kind == SERVER for span in collector.trace(TRACE)) == 7)
    text = "\n".join(span.text for span in collector.spans)
    assert "INSERT INTO users" in text
    assert "EVALSHA" in text  # of the rate limits
    passwords = [url.split("@")[0].rpartition(":")[2] for url in environment.values() if "@" in url]
    assert len(passwords) == 2
    for secret in ("lovel", "countess", "example.com", "of-the-client", *passwords):
        assert secret not in text


@pytest.mark.parametrize("log_level", ["INFO", "DEBUG"])
def test_log_does_not_repeat_the_headers_of_a_trace(
    start: Start, collector: Collector, log_level: str
) -> None:
    switch = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "LOG_LEVEL": log_level}
    malformed = {"baggage": "countess,lovelace", "tracestate": "Ada <countess@example.com>"}
    with start(**QUICKLY, **switch) as service:
        assert httpx.get(service.url + URL, headers=TRACEPARENT | malformed).status_code == 200
        eventually(lambda: len(collector.trace(TRACE)) > 0)
        assert "countess" not in service.log


def test_probes_are_not_traced_and_a_trace_begins_where_none_came_in(
    traced: RunningService, collector: Collector
) -> None:
    for probe in ("/health", "/health/ready"):
        assert httpx.get(traced.url + probe).status_code == 200
    begun = httpx.get(traced.url + URL).headers["traceresponse"].split("-")[1]
    eventually(lambda: any(span.kind == SERVER for span in collector.trace(begun)))
    beginning = [span for span in collector.spans if not span.parent_id]
    assert [(span.name, span.kind) for span in beginning] == [(f"GET {URL}", SERVER)]


def test_remaining_spans_are_exported_at_the_stop_and_ids_are_in_the_text_log(
    start: Start, collector: Collector
) -> None:
    switch = {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/v1/traces",
        "OTEL_BSP_SCHEDULE_DELAY": "60000",
        "OTEL_SERVICE_NAME": "another-name",
    }
    with start(**switch) as service:
        httpx.get(service.url + URL, headers=TRACEPARENT)
        assert collector.trace(TRACE) == []
        assert service.stop() == 0
    assert {span.service for span in collector.trace(TRACE)} == {"another-name"}
    line = rf"GET {URL} 200 .* request_id=\w+ trace_id={TRACE} span_id=[0-9a-f]{{16}}\n"
    assert re.search(line, service.log)


@pytest.mark.parametrize("fault", ["refuses", "hangs"])
def test_collector_that_is_away_delays_neither_requests_nor_the_stop(
    start: Start, collector: Collector, fault: str
) -> None:
    collector.hangs = 60
    url = collector.url if fault == "hangs" else f"http://127.0.0.1:{free_port()}"
    switch = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_MAX_QUEUE_SIZE": "512"}
    with (
        start(**QUICKLY, **switch) as service,
        httpx.Client(base_url=service.url) as http,
    ):
        # The timeouts of httpx and of stop() are shorter than the collector hangs.
        assert {http.get(URL).status_code for _ in range(300)} == {200}
        assert service.stop() == 0


# redis-py itself imports the metrics SDK if it is installed.
ONE_REQUEST = """
import sys
import redis
theirs = set(sys.modules)
from app import create_app
app = create_app()
from user_service.web.services import services_of
assert app.test_client().get("/api/v1/users").status_code == 200
services_of(app).close()
print("loaded:", any(name.startswith("opentelemetry") for name in sys.modules.keys() - theirs))
"""


@pytest.mark.parametrize(
    ("variables", "is_loaded"),
    [
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://[::1]:1"}, False),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
    ],
)
def test_opentelemetry_is_loaded_only_for_tracing(
    environment: dict[str, str], variables: dict[str, str], is_loaded: bool
) -> None:
    ended = run([sys.executable, "-c", ONE_REQUEST], environment | variables)
    assert f"loaded: {is_loaded}" in ended.stdout, ended.stderr


@pytest.mark.parametrize(
    ("reason", "variables"),
    [
        ("packages are missing: install requirements-tracing.txt", {}),
        ("OTEL_TRACES_EXPORTER is none of", {EXPORTER: "zipkin"}),
        ("OTEL_TRACES_EXPORTER is none of", {EXPORTER: "otlp,console"}),
        ("OTEL_EXPORTER_OTLP_PROTOCOL is not", {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}),
        ("", {"OTEL_BSP_SCHEDULE_DELAY": "-1"}),
        ("", {"OTEL_PROPAGATORS": "of-another-service"}),
    ],
)
def test_tracing_that_fails_is_left_out_with_one_warning(
    tmp_path: Path, environment: dict[str, str], reason: str, variables: dict[str, str]
) -> None:
    if not variables:
        (tmp_path / "opentelemetry").mkdir()
        (tmp_path / "opentelemetry" / "__init__.py").touch()  # hides the packages
    settings = {**environment, EXPORTER: "otlp", **variables}
    ended = run([sys.executable, "-c", ONE_REQUEST], settings | {"PYTHONPATH": str(tmp_path)})
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("no traces: ") == ended.stdout.count(f"no traces: {reason}") == 1
