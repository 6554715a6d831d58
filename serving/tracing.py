"""Traces by OpenTelemetry: a span for each request of the service, with a child span for each stage of an answer.

Traces are made if `BRAID_TRACES_ENDPOINT` names a collector. A caller's `traceparent` is the parent of the request's span. A thread sends spans in
batches, so a collector that does not answer delays no request.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from opentelemetry import trace
from starlette.middleware import Middleware

from infra.settings import Settings
from serving.request_ids import current_request_id
from serving.stages import Stages

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

#: The longest time of one export to the collector, in seconds.
_SEND_SECONDS = 5
_SECOND_NS = 1_000_000_000


def tracing(settings: Settings) -> list[Middleware]:
    """Returns the middleware that makes the spans of requests and sends them; empty without a collector."""
    global _provider  # noqa: PLW0603 — a process has one provider, because it has one service
    if not settings.traces_endpoint:
        return []
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

    _provider = TracerProvider(
        sampler=ParentBasedTraceIdRatio(settings.traces_share), resource=Resource.create({"service.name": "braid"})
    )
    exporter = OTLPSpanExporter(endpoint=settings.traces_endpoint, timeout=_SEND_SECONDS)
    _provider.add_span_processor(BatchSpanProcessor(exporter))
    return [Middleware(OpenTelemetryMiddleware, tracer_provider=_provider, exclude_spans=["receive", "send"])]


def trace_request(endpoint: str, model: str = "") -> None:
    """Sets the attributes of the request's span. Does nothing if the request is not traced.

    Call it before the answer is sent, because then the span ends.

    Args:
        endpoint: The kind of the answer: "features", "predict" or "score".
        model: The name of the model that answers; empty for features.
    """
    if _provider is None:
        return
    request = trace.get_current_span()
    if request.is_recording():
        request.set_attributes({"braid.endpoint": endpoint, "braid.model": model, "braid.request_id": current_request_id()})


def trace_stages(stages: Stages) -> None:
    """Makes a span for each stage of an answer, within the request's span. Does nothing if the request is not traced.

    The request's span may have ended, so the caller of the service does not wait for these spans.

    Args:
        stages: The times of the stages.
    """
    if _provider is None or not trace.get_current_span().get_span_context().trace_flags.sampled:
        return
    tracer = _provider.get_tracer("braid")
    at_ns = time.time_ns() - round((time.perf_counter() - stages.started) * _SECOND_NS)
    for stage, seconds in stages.seconds.items():
        span = tracer.start_span(stage, start_time=at_ns)
        at_ns += round(seconds * _SECOND_NS)
        span.end(end_time=at_ns)


def end_tracing() -> None:
    """Sends the remaining spans, within some seconds, and ends the thread that sends them."""
    if _provider is not None:
        _provider.shutdown()


_provider: TracerProvider | None = None
