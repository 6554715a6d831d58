"""Traces: what a collector receives of requests, over real HTTP."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from mlflow import MlflowClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from starlette.applications import Starlette
from starlette.middleware import Middleware

from infra.embedded import services
from infra.settings import Settings
from serving import tracing
from serving.contract import FeaturesRequest
from serving.decoding import decoder, features_struct
from serving.front import Front, put_in_front
from serving.request_counts import RequestCounts
from serving.request_ids import RequestIds
from serving.stages import Stages
from tests.declarations import repurchase, user_features
from tests.serving.test_faults import booster, register
from tests.waiting import eventually

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
BODY = {"group": "cards", "ids": [1]}


@dataclass
class Collector:
    """The spans that arrived at a server of OpenTelemetry's protocol."""

    url: str = ""
    spans: list[Span] = field(default_factory=list)


@pytest.fixture
def collector() -> Iterator[Collector]:
    arrived = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            message = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
            arrived.spans += [span for group in message.resource_spans for scope in group.scope_spans for span in scope.spans]
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Writes nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    arrived.url = f"http://127.0.0.1:{server.server_port}/v1/traces"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield arrived
    server.shutdown()
    server.server_close()


async def answer(_path: str, request: Any, _media_type: bytes) -> bytes:
    stages = Stages()
    tracing.trace_request("features", "cards_model")
    await asyncio.sleep(0.02)
    stages.read(0.005)
    stages.end("merge")
    if request.ids == [13]:
        raise ValueError("a fault of the service")
    asyncio.get_running_loop().call_soon(tracing.trace_stages, stages)  # after the answer, as the service does
    return b"{}"


def caller(url: str, share: float = 1) -> httpx.AsyncClient:
    settings = Settings(BRAID_TRACES_ENDPOINT=url, BRAID_TRACES_SHARE=share)
    decoders = {"/features": decoder(features_struct(), FeaturesRequest)}
    front = Middleware(
        Front, key=None, decoders=decoders, answer=answer, media_types={}, most_at_once=9, shed=print, timeout_seconds=9,
        counts=RequestCounts(Starlette()),
    )  # fmt: skip
    app = put_in_front(Starlette(), [*tracing.tracing(settings), Middleware(RequestIds), front])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://braid")


def requests_of(collector: Collector) -> list[Span]:
    """The spans of requests, in the order of their beginning."""
    requests = [span for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER]
    return sorted(requests, key=lambda span: span.start_time_unix_nano)


def attributes(request: Span) -> tuple[str | None, ...]:
    """The endpoint, the model and the request id of a request's span."""
    texts = {attribute.key: attribute.value.string_value for attribute in request.attributes}
    return tuple(texts.get(f"braid.{name}") for name in ("endpoint", "model", "request_id"))


@pytest.fixture(autouse=True)
def _off_again() -> Iterator[None]:
    yield
    tracing.end_tracing()
    tracing._provider = None


def test_a_request_is_a_span_of_the_callers_trace_with_a_span_per_stage(collector: Collector) -> None:
    async def ask() -> httpx.Response:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "order-17"}
        return await caller(collector.url).post("/features", json=BODY, headers=headers)

    began_ns = time.time_ns()
    assert asyncio.run(ask()).status_code == 200
    tracing.end_tracing()
    [request] = requests_of(collector)
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    assert attributes(request) == ("features", "cards_model", "order-17")
    stages = sorted((span for span in collector.spans if span is not request), key=lambda span: span.start_time_unix_nano)
    assert [span.name for span in stages] == ["store", "decode", "merge"]
    assert {span.parent_span_id for span in stages} == {request.span_id}
    assert began_ns <= stages[0].start_time_unix_nano < stages[-1].end_time_unix_nano <= request.end_time_unix_nano
    assert stages[0].end_time_unix_nano - stages[0].start_time_unix_nano >= 10_000_000
    assert stages[1].end_time_unix_nano - stages[1].start_time_unix_nano == 5_000_000


def test_a_fault_is_an_error_of_the_span_and_the_share_leaves_out_requests(collector: Collector) -> None:
    async def ask(share: float, *bodies: dict[str, Any]) -> list[int]:
        client = caller(collector.url, share)
        return [(await client.post("/features", json=body)).status_code for body in bodies]

    assert asyncio.run(ask(0, BODY, BODY)) == [200, 200]
    tracing.end_tracing()
    assert not collector.spans
    assert asyncio.run(ask(1, {**BODY, "ids": [13]})) == [500]
    tracing.end_tracing()
    assert [span.status.code for span in collector.spans] == [2]


def test_a_collector_that_does_not_answer_changes_no_answer() -> None:
    async def ask() -> list[int]:
        client = caller("http://127.0.0.1:9/v1/traces")
        return [(await client.post("/features", json=BODY)).status_code for _ in range(20)]

    assert asyncio.run(ask()) == [200] * 20


def test_without_a_collector_there_is_no_layer() -> None:
    assert tracing.tracing(Settings()) == []


@pytest.fixture
def service(collector: Collector, tmp_path: Path, empty_registry: Callable[[Path], str]) -> Iterator[Settings]:
    """The real service with a model, which sends its traces to the collector."""
    settings = Settings.load(tmp_path).model_copy(
        update={"mlflow_tracking_uri": empty_registry(tmp_path), "traces_endpoint": collector.url}
    )
    MlflowClient(settings.mlflow_tracking_uri).create_experiment(repurchase.name, artifact_location=str(tmp_path / "artifacts"))
    register(settings, booster())
    try:
        services.up(settings, {}, only={"valkey", "serving"})
        yield settings
    finally:
        services.down(settings)


def test_the_service_sends_the_stages_and_the_attributes_of_each_kind_of_request(collector: Collector, service: Settings) -> None:
    asked: list[tuple[str, dict[str, Any], int, tuple[str, str]]] = [
        ("/features", {"group": user_features.name, "ids": [1]}, 200, ("features", "")),
        ("/features", {"group": "unknown", "ids": [1]}, 404, ("features", "")),
        ("/predict", {"user_id": 1}, 200, ("predict", repurchase.name)),
        (f"/models/{repurchase.name}/score", {"candidates": [{"user_id": 1}]}, 200, ("score", repurchase.name)),
    ]
    eventually(lambda: httpx.get(f"{service.serving_url}/readyz").is_success)
    for place, (path, body, status, _) in enumerate(asked):
        answered = httpx.post(f"{service.serving_url}{path}", json=body, headers={"x-request-id": f"order-{place}"}, timeout=60)
        assert answered.status_code == status, answered.text
    services.down(service)  # the service sends what it has
    sent = [span for span in requests_of(collector) if attributes(span)[2]]
    assert [attributes(span) for span in sent] == [(*kind, f"order-{place}") for place, (*_, kind) in enumerate(asked)]
    stages = [{span.name for span in collector.spans if span.parent_span_id == request.span_id} for request in sent]
    predicted = {"store", "decode", "merge", "model", "encode"}
    assert stages == [predicted - {"model"}, set(), predicted, predicted]
